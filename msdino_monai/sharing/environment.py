"""A package in a new virtual environment: nothing but MONAI, the packed wheel and what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle

WHEELS = "wheels"


def verify_in_fresh_environment(root: Path, scratch: Path, schema: str | None, constraint: str | None) -> bool:
    """Install the wheel of an unpacked package, and have the `verify` in it check the rest."""
    begun = time.monotonic()
    wheels = sorted((root / WHEELS).glob("msdino_monai-*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{root.name} brings {len(wheels)} msdino_monai wheels in {WHEELS}; make it again with `pack`.")
    folder = scratch / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    limits = ["--constraint", str(Path(constraint).expanduser().resolve())] if constraint else []
    torch = f"torch=={Bundle(root).metadata['pytorch_version']}"
    # torch first and alone: its wheel decides what else is downloaded.
    for requirement in (torch, str(wheels[0])):
        _checked([str(python), "-m", "pip", "install", "--quiet", *limits, requirement], scratch)
    print(f"  fresh environment    {time.monotonic() - begun:>6.1f} s  {torch}, {wheels[0].name}", flush=True)
    command = [str(python), "-m", "msdino_monai", "verify", str(root)]
    if schema or os.environ.get("MONAI_SCHEMA"):
        command += ["--schema", str(Path(schema or os.environ["MONAI_SCHEMA"]).expanduser().resolve())]
    # Its Python's own packages alone, from a place where nothing lies.
    ended = subprocess.run(command, check=False, cwd=scratch, env=_environment())  # noqa: S603 -- our own verb
    shutil.rmtree(folder)
    return ended.returncode == 0


def _environment() -> dict[str, str]:
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _checked(command: Sequence[str], folder: Path) -> None:
    ended = subprocess.run(  # noqa: S603 -- pip, in its own environment
        command, capture_output=True, text=True, check=False, cwd=folder, env=_environment()
    )
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"`{' '.join(command[1:])}` failed: {last}; --fresh false runs it in this environment.")
