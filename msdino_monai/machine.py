"""What a run was made with: its command, its seed, versions and the machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from msdino_monai.distributed import rank, world_size
from msdino_monai.settings import is_command_line
from msdino_monai.vault.atomic import write_file

_PACKAGES = ("msdino-monai", "monai", "torch", "numpy", "nvflare", "pydicom")


def remember_run(folder: str | Path, seed: int) -> None:
    """`run.json` in a run's folder; only where somebody typed the command, and of the last start."""
    if rank() > 0 or not is_command_line():
        return
    content = {
        "command": shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        "processes": world_size(),
        **machine(),
    }
    write_file(Path(folder) / "run.json", (json.dumps(content, indent=1) + "\n").encode())


def machine() -> dict[str, Any]:
    """Hardware and versions, as a run or a result file keeps them."""
    return {"hardware": hardware(), "versions": versions()}


def versions() -> dict[str, str]:
    """Python's and those of the packages that figures depend on, where they are installed."""
    found = {name: said for name in _PACKAGES if (said := _installed(name))}
    return {"Python": platform.python_version(), **found}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def hardware() -> str:
    """Processor, cores, memory and GPUs of this machine."""
    words = [_processor(), f"{os.cpu_count()} logical cores"]
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        words.append(f"{memory / 2**30:.0f} GiB of memory")
    except (ValueError, OSError):
        pass  # not every system tells
    if torch.cuda.is_available():
        words.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join([*words, f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "an unnamed processor"
