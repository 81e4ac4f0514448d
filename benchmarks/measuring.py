"""What the benchmarks share: taking turns, medians with their spread, the machine, a table, a JSON file."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msdino_monai.vault.atomic import write_file

PACKAGES = ("torch", "numpy", "pydicom", "monai", "pillow")


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring and knows `--output_file`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every call; all sides run once in each round, in rotating order, so that noise hits them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for round_ in range(rounds + warmup):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            start = time.perf_counter()
            sides[name]()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "q1": float(low), "q3": float(high), "n": len(values)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of the ratio within each round."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), f":{platform.machine()}")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "cpu": cpu.split(":", 1)[1].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        **versions,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers keep three figures."""
    texts = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    print(f"\n{title}")
    for row in texts:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"


def save(arguments: argparse.Namespace, started_on: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write command, machine, settings and results, if asked for; `started_on` is `machine()` before the load."""
    if arguments.output_file is None:
        return
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    page = {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": dict(started_on),
        "settings": {name: value for name, value in settings.items() if name != "output_file"},
        "results": dict(results),
    }
    arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output_file, page)


def write_json(path: Path, content: object, indent: int = 2) -> None:
    """The file is there whole or not at all, whenever this is killed."""
    write_file(path, (json.dumps(content, indent=indent) + "\n").encode())
