"""Section: the rounds of each federation."""

from __future__ import annotations

import math
from typing import Any

from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, in_bytes, number
from msdino_monai.reporting.traffic import site_bytes


def add(page: Page, runs: Runs) -> None:
    page.section("Federation: round by round")
    if not runs.federations:
        page.missing("No federation was found (federated.json).")
        return
    for run in runs.federations:
        if len(runs.federations) > 1:
            page.heading(run.name)
        _one(page, run)


def _one(page: Page, run: Run) -> None:
    said = run.content
    best = said.get("best") or {}
    page.facts(
        [
            ("bundle", str(said.get("bundle", ""))),
            ("strategy", str(said.get("strategy", "")), f"transport {said.get('transport', '')}"),
            ("rounds done", len(said["history"]), f"of {said['rounds']}"),
            (
                "best round",
                best.get("round"),
                f"{metric_words(best.get('metric'))} {number(best.get('score')):.3f}" if best else "",
            ),
        ]
    )
    if said.get("stopped"):
        page.verdict("fail", "This federation stopped", str(said["stopped"]))
    elif not said.get("complete"):
        page.verdict("note", "This federation is not finished")
    key = str(said.get("key_metric", ""))
    _gain(page, said, best, key)
    charts = []
    if said.get("validation"):
        charts.append(
            (_metric(said, key), f"{metric_words(key)} of the global weights, on each site's own validation images.")
        )
    if said.get("traffic"):
        charts.append(
            (_bytes(said), "Counted on the wire, both directions, all sites; the last exchange only validates.")
        )
    page.charts(charts)
    rows: list[list[Cell]] = []
    for entry in said["history"]:
        left_out = [name for name, site in entry["sites"].items() if site.get("error")]
        answers = f"{entry['aggregated']} of {entry['of']}"
        rows.append([entry["round"], answers, f"{number(entry.get('seconds')):.1f}", ", ".join(left_out) or "none"])
    page.table(["round", "sites aggregated", "seconds", "left out"], rows, f"{run.name}: who took part.")
    total = sum(site_bytes(run).values())
    page.paragraph(f"All sites together sent and received {in_bytes(total)}.")


def _gain(page: Page, said: dict[str, Any], best: dict[str, Any], key: str) -> None:
    """Say plainly where the weights it began with did as well as the best that came after."""
    start = next(
        (number(each["mean"].get(key)) for each in said.get("validation") or () if each["round"] == 0), math.nan
    )
    score = number(best.get("score"))
    if score <= start:
        page.verdict(
            "note",
            "This federation is not better than its start",
            f"The weights it began with had a {metric_words(key)} of {start:.3f} on the sites' validation images; the "
            f"best round after that, {best.get('round')}, had {score:.3f}. The start is no candidate: what is kept as "
            "the best is always a trained round. More rounds, larger images or another learning rate may change that.",
        )


def _metric(said: dict[str, object], key: str) -> str:
    chart = Chart(metric_words(key), "round", "")
    entries: list[dict[str, dict[str, dict[str, float]]]] = said["validation"]  # type: ignore[assignment]
    for site in said["sites"]:  # type: ignore[attr-defined]
        points = [(number(each["round"]), number(each["sites"].get(site, {}).get(key))) for each in entries]
        if any(math.isfinite(value) for _, value in points):
            chart.line(str(site), [step for step, _ in points], [value for _, value in points])
    chart.line("mean", [number(each["round"]) for each in entries], [number(each["mean"].get(key)) for each in entries])
    return chart.svg()


def _bytes(said: dict[str, object]) -> str:
    sums: dict[int, float] = {}
    for row in said["traffic"]:  # type: ignore[attr-defined]
        sums[int(row["round"])] = sums.get(int(row["round"]), 0.0) + number(row["wire_bytes"])
    chart = Chart("Bytes of each round", "round", "MB")
    return chart.bars([str(step) for step in sorted(sums)], [sums[step] / 1e6 for step in sorted(sums)]).svg()


def metric_words(name: object) -> str:
    """A metric as people say it; what it was measured on stands beside it."""
    said = str(name or "").removeprefix("val_").replace("_", " ")
    return said.replace("dice", "Dice").replace("auc", "AUC")
