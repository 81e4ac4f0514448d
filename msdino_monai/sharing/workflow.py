"""Checks of what a bundle does: MONAI's properties of its workflows, and a run on tiny data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import RUN_OUTPUT, Bundle
from msdino_monai.sharing.outcome import LeftOut

_TIME_LIMIT = 1800  # seconds
# What somebody tries a bundle with, where it has such a setting.
_TRIAL_SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "num_workers": 0,
    "site_id": "verify",
    "checkpoint": "random",
    "allow_unsigned": True,
}


def check_properties(bundle: Bundle, kind: str, dataset_dir: Path, output_dir: Path) -> str:
    """A workflow starts and has every property that MONAI asks for; kind is `train` or `inference`."""
    if not bundle.has(kind):
        raise LeftOut(f"there is no configs/{kind}.json")
    config = bundle.config(kind)
    flow = ConfigWorkflow(
        config_file=str(bundle.config_file(kind)),
        meta_file=bundle.monai_files()["meta_file"],
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle.root),
        **_settings(config, dataset_dir, output_dir),
    )
    flow.initialize()
    try:
        missing = flow.check_properties()
    finally:
        flow.finalize()
    if missing:
        raise UserError(f"{kind}.json lacks {', '.join(missing)}; MONAI looks for them there.")
    return "all there"


def check_run(bundle: Bundle, dataset_dir: Path, output_dir: Path) -> str:
    """`python -m monai.bundle run` on inference.json, as a user types it."""
    ended = _run(bundle, dataset_dir, output_dir)
    if ended.returncode != 0:
        raise UserError(f"inference ended with status {ended.returncode}: {_last_line(ended.stderr)}")
    written = [path for path in output_dir.rglob("*") if path.is_file()]
    if not written:
        raise UserError("inference wrote nothing; is output_dir used?")
    return f"{len(list(dataset_dir.iterdir()))} images in, {len(written)} files out"


def check_without_weights(bundle: Bundle, dataset_dir: Path, scratch: Path) -> str:
    """Without weights, inference stops with one line that says how to make some."""
    if not bundle.needs_weights:
        raise LeftOut("needs no weights")
    bare = bundle.copy(scratch, leave_out=("models", *RUN_OUTPUT))
    ended = _run(bare, dataset_dir, scratch / "out")
    lines = ended.stderr.strip().splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    if ended.returncode != 1 or "Traceback" in ended.stderr or len(said) != 1 or "configs/train.json" not in said[0]:
        last = _last_line(ended.stderr)
        raise UserError(f"inference without weights must stop with one line that names the train command; got: {last}")
    return "stops with the train command"


def _run(bundle: Bundle, dataset_dir: Path, output_dir: Path) -> subprocess.CompletedProcess[str]:
    given = {"bundle_root": bundle.root, **_settings(bundle.config("inference"), dataset_dir, output_dir)}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle.config_file("inference"))]
    # From a place where nothing lies: what works only beside a checkout is no package.
    empty = output_dir.parent / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.run(  # noqa: S603 -- the bundle's own run
            [*command, *flags],
            capture_output=True,
            text=True,
            check=False,
            cwd=empty,
            env=environment,
            timeout=_TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"inference on tiny data took more than {_TIME_LIMIT} s; it hangs.") from None


def _settings(config: dict[str, Any], dataset_dir: Path, output_dir: Path) -> dict[str, Any]:
    """What a user gives: data, a place for results, and what the configuration knows of the rest."""
    known = {name: value for name, value in _TRIAL_SETTINGS.items() if name in config}
    return {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), **known}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1][:300]
