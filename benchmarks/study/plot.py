"""The study at a glance: what an arm reaches with few labels and what it moves, and how labels help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protocol import ARMS, FEW, TASKS

NOTHING = 1e4  # bytes; where an arm that moves nothing stands on a logarithmic axis


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Score against bytes per hospital with few labels and, where there are several, against the share of labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(entry["task"] == task for entry in summary["scores"])]
    columns = 1 + (len({entry["fraction"] for entry in summary["scores"]}) > 1)
    figure = Figure(figsize=(7 * columns, 5 * len(tasks)), layout="constrained")
    for row, task in enumerate(tasks):
        _against_bytes(figure.add_subplot(len(tasks), columns, columns * row + 1), summary, task)
        if columns == 2:
            _against_labels(figure.add_subplot(len(tasks), columns, columns * row + 2), summary, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def _against_bytes(axes: Any, summary: Mapping[str, Any], task: str) -> None:
    fractions = sorted({entry["fraction"] for entry in summary["scores"] if entry["task"] == task})
    few = FEW if FEW in fractions else fractions[0]
    moved = {entry["arm"]: entry["wire_bytes"] for entry in _of(summary["costs"], task, few)}
    beside = side_by_side(moved)
    for entry in _of(summary["scores"], task, few):
        found = entry["own"]
        errors = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
        title, colour = ARMS[entry["arm"]].title, _colour(entry["arm"])
        axes.errorbar(beside[entry["arm"]], found["mean"], yerr=errors, fmt="o", color=colour, capsize=3, label=title)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("bytes that leave and reach a hospital (leftmost: none)")
    axes.set_ylabel(f"{TASKS[task].metric}, own test patients, 95 %")
    axes.set_title(f"{task}: {100 * few:g} % of the labels, SYNTHETIC", fontsize=10)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def side_by_side(moved: Mapping[str, float], apart: float = 1.25) -> dict[str, float]:
    """Where each arm stands on the axis of bytes: no two nearer than a factor `apart`; intervals must be read."""
    places: dict[str, float] = {}
    last = 0.0
    for arm in sorted(moved, key=lambda name: moved[name]):
        last = places[arm] = max(moved[arm], NOTHING, last * apart)
    return places


def _against_labels(axes: Any, summary: Mapping[str, Any], task: str) -> None:
    for arm in ARMS:
        line = sorted(
            (entry["fraction"], entry["own"]["mean"])
            for entry in summary["scores"]
            if (entry["task"], entry["arm"]) == (task, arm)
        )
        if line:
            axes.plot(*zip(*line, strict=True), "o-", color=_colour(arm), label=ARMS[arm].title)
    axes.set_xscale("log")
    axes.set_xlabel("share of a hospital's labels")
    axes.set_ylabel(f"{TASKS[task].metric}, own test patients")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _of(entries: Any, task: str, fraction: float) -> list[dict[str, Any]]:
    return [entry for entry in entries if (entry["task"], entry["fraction"]) == (task, fraction)]


def _colour(arm: str) -> str:
    return f"C{list(ARMS).index(arm)}"
