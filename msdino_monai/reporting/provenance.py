"""Section: what it takes to make these runs again."""

from __future__ import annotations

import shlex

from msdino_monai.machine import hardware, versions
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, number

_NAMED = 6  # runs in one cell


def add(page: Page, runs: Runs) -> None:
    page.section("Versions, seeds, hardware, commands")
    _models(page, runs)
    for run in runs.stages:
        stages = run.content["stages"]
        if isinstance(stages, dict) and stages:
            rows = [[name, round(number(seconds))] for name, seconds in stages.items() if number(seconds) >= 0]
            page.table(["stage", "seconds"], rows, f"How long each stage of {run.name} took.")
    _seeds(page, runs)
    page.heading("Versions")
    page.table(
        ["run", "tool", "version"], _versions(runs), "As the runs wrote them, and as they are where this page was made."
    )
    page.heading("Hardware")
    _hardware(page, runs)
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
        start = _start(run)
        kind = str(run.content.get("task", "")).replace("_", " ")
        rows.append([run.name, kind, start, run.content.get("seed"), chosen.get("epoch"), scores])
    if rows:
        header = ["run", "kind", "start", "seed", "epoch", "validation, the best epoch"]
        page.table(header, rows, "Networks trained in these runs. Scores that chose an epoch flatter it.")


def _seeds(page: Page, runs: Runs) -> None:
    """Of everything that was drawn, beside networks."""
    drawn = [*((run, "settings") for run in runs.cohorts), *((run, "audit") for run in runs.audits)]
    rows: list[list[Cell]] = [
        [run.name, run.content[where]["seed"]] for run, where in drawn if "seed" in (run.content.get(where) or {})
    ]
    if rows:
        page.table(["run", "seed"], rows, "Synthetic data and audits. Shuffles have no seed.")


def _start(run: Run) -> str:
    """What a network was before it was trained."""
    sam = (run.content.get("network") or {}).get("size")
    if sam and run.content.get("checkpoint") != "random":
        return f"a published SAM ({str(sam).replace('_', ' ')})"
    return "a pretrained body" if run.content.get("backbone") else "from scratch"


def _versions(runs: Runs) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for run in runs.exports:
        rows += [[run.name, name, str(said)] for name, said in (run.content.get("tools") or {}).items()]
    for run in (*runs.pretrainings, *runs.models):
        if said := run.content.get("package_version"):
            rows.append([run.name, "msdino_monai", str(said)])
    for run in runs.notes:
        rows += [[run.name, name, str(said)] for name, said in run.content["versions"].items()]
    rows += [["this page", name, found] for name, found in versions().items()]
    return _joined([[run, str(name).replace("_", "-"), found] for run, name, found in rows])


def _joined(rows: list[list[Cell]]) -> list[list[Cell]]:
    """One row for each tool and version, or machine, with all the runs that name it."""
    names: dict[tuple[Cell, ...], list[str]] = {}
    for run, *said in rows:
        names.setdefault(tuple(said), []).append(str(run))
    return [[_named(said), *cells] for cells, said in names.items()]


def _named(runs: list[str]) -> str:
    """The runs a row speaks of; many are counted."""
    return ", ".join(runs) if len(runs) <= _NAMED else f"{', '.join(runs[:_NAMED])} and {len(runs) - _NAMED} more"


def _hardware(page: Page, runs: Runs) -> None:
    said: list[list[Cell]] = [
        [run.name, str(run.content["hardware"]), run.content.get("processes")] for run in runs.notes
    ]
    said += [
        [run.name, str(run.content["machine"]["hardware"]), None] for run in runs.stages if "machine" in run.content
    ]
    if said:
        page.table(["run", "machine", "processes"], _joined(said), "As the runs wrote it down, at their last start.")
    page.paragraph(f"This page was made on: {hardware()}.")


def _commands(page: Page, runs: Runs) -> None:
    lines = [line for run in runs.commands for line in run.content.get("lines", ())]
    if not lines:
        lines = [_command(run) for run in runs.commands if "arguments" in run.content]
        lines += [str(run.content["command"]) for run in runs.notes]
    if lines:
        page.commands(["\n\n".join(lines)])
    else:
        page.missing("No run here has written down its command.")


def _command(run: Run) -> str:
    return shlex.join(["python", "-m", "monai.bundle", *(str(each) for each in run.content["arguments"])])
