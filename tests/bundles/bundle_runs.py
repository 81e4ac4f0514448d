"""Running bundles as users do: through MONAI's workflow in this process, or through the command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow, verify_metadata
from warm_start import WARM, warm_run

from msdino_monai.errors import UserError

BUNDLES = Path(__file__).parents[2] / "bundles"
EXPORT = BUNDLES / "cxr_embedding_export"
SMALL = {"img_size": 64, "embedding_dim": 16, "num_workers": 0, "images_per_shard": 4}


def workflow(
    bundle: Path, configs: str | Sequence[str] = "inference.json", kind: str = "inference", **settings: Any
) -> ConfigWorkflow:
    """A bundle's workflow, not yet initialized; several configs are laid one over the other."""
    names = [configs] if isinstance(configs, str) else configs
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in names],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        **settings,
    )


def run(flow: ConfigWorkflow) -> ConfigWorkflow:
    """The whole of it in this process; what the user would read is raised, not MONAI's wrapping of it."""
    try:
        flow.initialize()
        flow.run()
        flow.finalize()
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (UserError, ValueError)):
            cause = cause.__cause__
        raise cause or error from None
    return flow


def export(dataset_dir: Path, output_dir: Path, site_id: str = "hospital_a", **settings: Any) -> None:
    """One whole run of the export bundle in this process."""
    given = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "site_id": site_id}
    run(workflow(EXPORT, **given, **{**SMALL, **settings}))


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")


def arguments(
    bundle: Path, configs: Sequence[str], *flags: object, launcher: Sequence[str] = ("monai.bundle",)
) -> list[str]:
    """`python -m monai.bundle run` on configs of a bundle, as it is typed."""
    files = str([str(bundle / "configs" / name) for name in configs])
    start = [sys.executable, "-m", *launcher, "run", "--config_file", files, "--bundle_root", bundle]
    return list(map(str, [*start, "--logging_file", bundle / "configs" / "logging.conf", *flags]))


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def completed(command_line: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    if list(command_line[: len(WARM)]) == WARM:
        return warm_run(command_line[len(WARM) :], **settings)
    return subprocess.run(command_line, capture_output=True, text=True, check=False, **settings)


def kill_once_there(command_line: Sequence[str], file: Path) -> None:
    """Start it, and kill it with -9 as soon as it has written that file."""
    child = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not file.exists() and child.poll() is None:
        time.sleep(0.005)
    child.kill()
    child.wait(60)
    assert file.exists()


def check_metadata(bundle: Path) -> None:
    """Refuse metadata that MONAI's own schema does not allow."""
    schema = os.environ["MONAI_SCHEMA"]
    digest = hashlib.sha256(Path(schema).read_bytes()).hexdigest()
    metadata = str(bundle / "configs" / "metadata.json")
    verify_metadata(meta_file=metadata, filepath=schema, hash_val=digest, hash_type="sha256")


def command(bundle: Path, *flags: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle run` on the bundle's inference.json, in a folder of its own."""
    start = [sys.executable, "-m", *launcher, "monai.bundle"] if not launcher else [sys.executable, "-m", *launcher]
    given = [*start, "run", "--config_file", bundle / "configs/inference.json", "--bundle_root", bundle, *flags]
    return completed(list(map(str, given)))
