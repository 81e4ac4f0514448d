"""Section: what it takes to make these runs again."""

from __future__ import annotations

import os
import platform
import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, number

_PACKAGES = ("msdino-monai", "monai", "torch", "numpy", "nvflare", "pydicom")


def add(page: Page, runs: Runs) -> None:
    page.section("Versions, seeds, hardware, commands")
    _models(page, runs)
    for run in runs.stages:
        stages = run.content["stages"]
        if isinstance(stages, dict) and stages:
            rows = [[name, round(number(seconds))] for name, seconds in stages.items() if number(seconds) >= 0]
            page.table(["stage", "seconds"], rows, f"How long each stage of {run.name} took.")
    page.heading("Versions")
    page.table(
        ["run", "tool", "version"], _versions(runs), "As the runs wrote them, and as they are where this page was made."
    )
    page.heading("Hardware")
    page.paragraph(f"This page was made on: {hardware()}. Runs do not write down their machine.")
    page.heading("Commands")
    _commands(page, runs)
    if runs.unreadable:
        page.heading("Files that could not be read")
        page.commands(runs.unreadable)


def _models(page: Page, runs: Runs) -> None:
    rows: list[list[Cell]] = []
    for run in runs.pretrainings:
        settings = run.content.get("settings") or {}
        rows.append(
            [run.name, "pretraining", "", settings.get("seed"), (run.content.get("trained") or {}).get("epochs"), ""]
        )
    for run in runs.models:
        chosen = run.content.get("chosen") or {}
        scores = ", ".join(
            f"{name.removeprefix('val_').replace('_', ' ')} {value:.3f}"
            for name, value in (chosen.get("validation") or {}).items()
            if isinstance(value, float)
        )
        start = "a pretrained body" if run.content.get("backbone") else "from scratch"
        kind = str(run.content.get("task", "")).replace("_", " ")
        rows.append([run.name, kind, start, run.content.get("seed"), chosen.get("epoch"), scores])
    if rows:
        header = ["run", "kind", "start", "seed", "epoch", "validation, the best epoch"]
        page.table(header, rows, "Networks trained in these runs. Scores that chose an epoch flatter it.")


def _versions(runs: Runs) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for run in runs.exports:
        rows += [[run.name, name, str(said)] for name, said in (run.content.get("tools") or {}).items()]
    for run in (*runs.pretrainings, *runs.models):
        if said := run.content.get("package_version"):
            rows.append([run.name, "msdino_monai", str(said)])
    rows = _joined(rows)
    rows += [["this page", name, found] for name in _PACKAGES if (found := _installed(name))]
    return [*rows, ["this page", "Python", platform.python_version()]]


def _joined(rows: list[list[Cell]]) -> list[list[Cell]]:
    """One row for each tool and version, with all the runs that name it."""
    names: dict[tuple[Cell, Cell], list[str]] = {}
    for run, tool, found in rows:
        names.setdefault((tool, found), []).append(str(run))
    return [[", ".join(said), tool, found] for (tool, found), said in names.items()]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def hardware() -> str:
    """Processor, cores and memory of this machine."""
    words = [_processor(), f"{os.cpu_count()} logical cores"]
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        words.append(f"{memory / 2**30:.0f} GiB of memory")
    except (ValueError, OSError):
        pass  # not every system tells
    return ", ".join([*words, f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "an unnamed processor"


def _commands(page: Page, runs: Runs) -> None:
    lines = [line for run in runs.commands for line in run.content.get("lines", ())]
    lines = lines or [_command(run) for run in runs.commands if "arguments" in run.content]
    if lines:
        page.commands(["\n\n".join(lines)])
        if all("lines" not in run.content for run in runs.commands):
            page.missing("Only exports keep their command; those of the other runs were not written down.")
    else:
        page.missing("No run here has written down its command.")


def _command(run: Run) -> str:
    return shlex.join(["python", "-m", "monai.bundle", *(str(each) for each in run.content["arguments"])])
