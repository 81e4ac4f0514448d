"""Section: how each fine-tuning learnt, epoch by epoch."""

from __future__ import annotations

import json
import math

from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, number, read_table

_LINES = 4  # in one chart
# The metric by which a task chooses its best epoch, with the words above its charts.
_TASKS = (("val_mean_auc", "Classification", "Mean AUC"), ("val_mean_dice", "Segmentation", "Mean Dice"))

Rows = list[dict[str, str]]


def add(page: Page, runs: Runs) -> None:
    page.section("Fine-tuning, epoch by epoch")
    tables = [(run, read_table(run.folder / "curves.csv")) for run in runs.curves]
    found = [(run, rows) for run, rows in tables if rows]
    if not found:
        page.missing("No fine-tuning left its curves (curves.csv).")
        return
    for metric, task, title in _TASKS:
        trained = [(run, rows) for run, rows in found if metric in rows[0]]
        for start in range(0, len(trained), _LINES):
            group = trained[start : start + _LINES]
            if start == 0:
                page.heading(task)
                page.table(["run", "starts from", "sees of a patch"], [_start(run) for run, _ in trained])
            page.charts(
                [
                    (_chart("Training loss", group, "loss"), "Mean of each epoch. It says nothing of other images."),
                    (
                        _chart(f"{title} on validation images", group, metric),
                        "Of each hospital's own validation images. It chose the epoch that was kept, so it flatters.",
                    ),
                ]
            )


def _start(run: Run) -> list[Cell]:
    """What a network began as, and how much of the image it is given: an export's body knows only what was exported."""
    try:
        said = json.loads((run.folder / "models" / "model.network.json").read_text(encoding="utf-8"))
        sizes = said["network"]
        side, width = sizes["patch_size"], sizes["patch_size"] - 2 * sizes["margin"]
        seen = f"{width} x {width} of {side} x {side} pixels, as {sizes['embedding_dim']} numbers"
        return [run.name, f"a pretrained body ({said['backbone']})" if said.get("backbone") else "scratch", seen]
    except (OSError, ValueError, LookupError, TypeError):
        return [run.name, None, None]


def _chart(title: str, group: list[tuple[Run, Rows]], name: str) -> str:
    longest = max(len(rows) for _, rows in group)
    chart = Chart(title, "epoch" if longest > 1 else "epoch (one so far)", "")
    for run, rows in group:
        points = [(number(row["epoch"]), number(row.get(name))) for row in rows]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        if points:
            chart.line(run.name, *zip(*points, strict=True))
    return chart.svg()
