"""Section: the rounds of each federation."""

from __future__ import annotations

import math

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
                f"{_words(best.get('metric'))} {number(best.get('score')):.3f}" if best else "",
            ),
        ]
    )
    if said.get("stopped"):
        page.verdict("fail", "This federation stopped", str(said["stopped"]))
    elif not said.get("complete"):
        page.verdict("note", "This federation is not finished")
    key = str(said.get("key_metric", ""))
    charts = []
    if said.get("validation"):
        charts.append(
            (_metric(said, key), f"{_words(key)} of the global weights, on each site's own validation images.")
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


def _metric(said: dict[str, object], key: str) -> str:
    chart = Chart(_words(key), "round", "")
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


def _words(name: object) -> str:
    return str(name or "").replace("_", " ")
