"""The few figures at the head of the page."""

from __future__ import annotations

import math

from msdino_monai.reporting.data import export_images, export_payload
from msdino_monai.reporting.federation import metric_words
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.runs import Run, Runs, figure, in_bytes, number
from msdino_monai.reporting.traffic import body_bytes

Fact = tuple[str, Cell] | tuple[str, Cell, str]


def add(page: Page, runs: Runs) -> None:
    page.facts([*_sent(runs), *_audited(runs), *_learnt(runs), *_federated(runs)])


def _sent(runs: Runs) -> list[Fact]:
    if not runs.exports:
        return []
    sites, images = len(runs.exports), sum(map(export_images, runs.exports))
    said = f"by {sites} hospital{'s' if sites > 1 else ''}, {images} radiographs"
    sent = in_bytes(sum(map(export_payload, runs.exports)))
    facts: list[Fact] = [("sent to the coordinator, once", sent, said)]
    if body := body_bytes(runs):
        facts.append(("returned to each hospital, once", in_bytes(body), "a pretrained body"))
    return facts


def _audited(runs: Runs) -> list[Fact]:
    said = [audit.content["verdict"] for audit in runs.audits]
    results = [str(each.get("result") if isinstance(each, dict) else each) for each in said]
    words = {"pass": "passed", "fail": "failed"}
    return [("privacy audit", words.get(result, result), _attacked(runs.audits[0])) for result in results[:1]]


def _attacked(audit: Run) -> str:
    """How much was tried: a small audit that passed says little."""
    images, export = audit.content.get("images") or {}, audit.content.get("export") or {}
    size = (export.get("options") or {}).get("img_size")
    if not images or size is None:
        return "attacks on images before they leave"
    return f"{images.get('reconstructed')} images of {size} px attacked, {images.get('auxiliary')} others learnt from"


def _learnt(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    if run := _tested(runs.classifications):
        value, low, high = figure((run.content.get("mean") or {}).get("auc"))
        facts.append(("findings, mean AUC", value, f"{_between(low, high)}; 0.5 is guessing; {_where(run)}"))
    if run := _tested(runs.segmentations):
        value, low, high = figure(run.content.get("mean_dice"))
        facts.append(("masks, mean Dice", value, f"{_between(low, high)}; 1 is perfect; {_where(run)}"))
    return facts


def _federated(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    for run in runs.federations[:1]:
        best = run.content.get("best") or {}
        key = str(best.get("metric", ""))
        starts = [each["mean"].get(key) for each in run.content.get("validation") or () if each["round"] == 0]
        if best:
            at_first = f", {number(starts[0]):.3f} before the first" if starts else ""
            facts.append((f"federation, {metric_words(key)}", number(best.get("score")), f"best round{at_first}"))
    return facts


def _tested(found: list[Run]) -> Run | None:
    """The first run on test images: they chose nothing, so they do not flatter."""
    return next((run for run in found if str(run.content.get("section", "")).startswith("test")), None)


def _between(low: float, high: float) -> str:
    return f"95 %: {low:.2f} to {high:.2f}" if math.isfinite(low) else "no interval"


def _where(run: Run) -> str:
    images = run.content.get("images") or run.content.get("cases")
    return f"{images} test images"
