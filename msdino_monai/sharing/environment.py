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


def verify_in_fresh_environment(root: Path, scratch: Path, key: str | None, constraint: str | None) -> bool:
    """Install the wheel of an unpacked package, and have the `verify` in it check the rest."""
    begun = time.monotonic()
    wheels = sorted((root / WHEELS).glob("msdino_monai-*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{root.name} brings {len(wheels)} msdino_monai wheels in {WHEELS}; make it again with `pack`.")
    folder = scratch / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    limits = ["--constraint", str(Path(constraint).expanduser().resolve())] if constraint else []
    wanted = Bundle(root).metadata.get("pytorch_version")
    if not wanted:
        raise UserError(f"{root.name}: metadata.json has no pytorch_version; add it.")
    torch = f"torch=={wanted}"
    print(f"  installing {torch} and {wheels[0].name} in a new environment", flush=True)
    # torch first and alone: its wheel decides what else is downloaded.
    for requirement in (torch, str(wheels[0])):
        _checked([str(python), "-m", "pip", "install", "--quiet", *limits, requirement], scratch)
    print(f"  fresh environment    {time.monotonic() - begun:>6.1f} s  {torch}, {wheels[0].name}", flush=True)
    command = [str(python), "-m", "msdino_monai", "verify", str(root), *(["--trusted_key", key] if key else [])]
    # Its Python's own packages alone, from a place where nothing lies.
    ended = subprocess.run(command, check=False, cwd=scratch, env=_environment())  # noqa: S603 -- our own verb
    shutil.rmtree(folder)
    return ended.returncode == 0


def _environment() -> dict[str, str]:
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # its notice would be the last line of an error


def _checked(command: Sequence[str], folder: Path) -> None:
    ended = subprocess.run(  # noqa: S603 -- pip, in its own environment
        command, capture_output=True, text=True, check=False, cwd=folder, env=_environment()
    )
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"`{' '.join(command[1:])}` failed: {last}; is there a network? --fresh false runs it in this environment."
        )
