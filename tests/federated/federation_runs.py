"""The verb as a user types it, in a process of its own: FLARE keeps warnings and threads to itself there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


def command(bundle: Path, sites: Path, output: Path, **flags: Any) -> list[str]:
    given = {"bundle": bundle, "sites_dir": sites, "output_dir": output, **flags}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "msdino_monai", "federate", *words]


def federate(bundle: Path, sites: Path, output: Path, **flags: Any) -> subprocess.CompletedProcess[str]:
    """One whole run."""
    return subprocess.run(
        command(bundle, sites, output, **flags),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=600,
    )


def report(output: Path, name: str = "federated.json") -> dict[str, Any]:
    return dict(json.loads((output / name).read_text()))


def wait_until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that run on startup kits in this folder."""
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(str(folder)) for word in words):
            lines.append(" ".join(words))
    return lines
