"""Section: how the shared body learnt."""

from __future__ import annotations

import math

from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, number, read_table

# What is shown, in this order, with the words under it; the rest stays in curves.csv.
_CURVES = (
    ("Loss", ("loss", "dino", "token"), "The whole loss and its two parts. Loss alone proves nothing."),
    ("Feature rank", ("feature_rank",), "How many directions the features use. Near 1, the body has collapsed."),
    ("Teacher entropy", ("teacher_entropy",), "Near 0 or at its greatest value, the teacher says nothing."),
    ("Student against teacher (KL)", ("kl",), "How far the student is from its teacher."),
    ("Images per second", ("images_per_second",), "On the machine of that run."),
)


def add(page: Page, runs: Runs) -> None:
    page.section("Pretraining at the coordinator")
    if not runs.pretrainings:
        page.missing("No pretraining run was found.")
        return
    for run in runs.pretrainings:
        rows = read_table(run.folder / "curves.csv")
        if len(runs.pretrainings) > 1:
            page.heading(run.name)
        if not rows:
            page.missing(f"{run.name}: curves.csv has no epoch yet.")
            continue
        _figures(page, run, rows)
        charts = [
            (_chart(title, rows, names, _after(rows)), words)
            for title, names, words in _CURVES
            if any(_values(rows, name) for name in names)
        ]
        page.charts(charts)
        _probes(page, run, rows)


def _figures(page: Page, run: Run, rows: list[dict[str, str]]) -> None:
    trained = run.content.get("trained") or {}
    body = run.content.get("body") or {}
    facts: list[tuple[str, Cell] | tuple[str, Cell, str]] = [
        ("epochs", int(number(rows[-1]["epoch"]))),
        ("images", trained.get("images"), "of all hospitals together"),
        ("loss, last epoch", number(rows[-1].get("loss")), f"first epoch {number(rows[0].get('loss')):.3f}"),
        (
            "feature rank",
            number(rows[-1].get("feature_rank")),
            f"first epoch {number(rows[0].get('feature_rank')):.1f}",
        ),
    ]
    if body:
        facts.append(("body", f"{body['num_layers']} layers", f"of width {body['hidden_size']}"))
    page.facts(facts)


def _chart(title: str, rows: list[dict[str, str]], names: tuple[str, ...], x_label: str) -> str:
    chart = Chart(title, x_label, "")
    for name in names:
        if _values(rows, name):
            steps = [number(row["epoch"]) for row in rows]
            chart.line(name.replace("_", " "), steps, [number(row.get(name)) for row in rows])
    return chart.svg()


def _probes(page: Page, run: Run, rows: list[dict[str, str]]) -> None:
    """Probes do not run every epoch: rows without one are left out."""
    found = [name for name in ("knn_auc", "linear_auc", "knn_accuracy", "linear_accuracy") if _values(rows, name)]
    page.heading("Probes over time")
    if not found:
        page.missing(
            f"{run.name} ran without labelled images (--val_datalist), so no probe says what the features are worth."
        )
        return
    chart = Chart("Probes of the frozen body", "epoch", "AUC" if "knn_auc" in found else "accuracy")
    for name in found:
        points = [(number(row["epoch"]), number(row[name])) for row in rows if math.isfinite(number(row.get(name)))]
        chart.line(name.replace("_", " "), *zip(*points, strict=True))
    page.charts(
        [
            (
                chart.svg(),
                "Nearest neighbours and a linear layer on frozen features, asked of the validation images of "
                "--val_datalist. Held out they are only if they were not exported, too. With few images every step is "
                "chance: an AUC of 0.5 is guessing.",
            )
        ]
    )


def _values(rows: list[dict[str, str]], name: str) -> list[float]:
    return [value for row in rows if math.isfinite(value := number(row.get(name)))]


def _after(rows: list[dict[str, str]]) -> str:
    return "epoch" if len(rows) > 1 else "epoch (one so far)"
