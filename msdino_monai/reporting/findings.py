"""Section: how well findings are told, with ROC curves from the cases each evaluation wrote."""

from __future__ import annotations

from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.forest import draw_forest
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.roc import FEWEST, GRID, area, at, band, classes_of, roc, scored
from msdino_monai.reporting.runs import Run, Runs, figure, read_table, with_interval

_LINES = 3  # in one chart; bands of more hide each other
_GROUPS = 2  # sets of images whose curves are drawn


def add(page: Page, runs: Runs) -> None:
    page.section("Findings: classification")
    if not runs.classifications:
        page.missing("No evaluated classification run was found (metrics.json with cases.csv).")
        return
    rows: list[list[Cell]] = []
    for run in runs.classifications:
        mean = run.content.get("mean") or {}
        told = [
            with_interval(mean.get(name)) for name in ("auc", "average_precision", "sensitivity", "calibration_error")
        ]
        rows.append([run.name, _section(run), run.content.get("images"), *told])
    page.table(
        ["run", "section", "images", "AUC", "average precision", "sensitivity", "calibration error"],
        rows,
        "Means over findings, 95 % bootstrap intervals over patients. Validation images chose the epoch: they flatter.",
    )
    few = [run.name for run in runs.classifications if int(run.content.get("patients") or 0) < 50]
    if few:
        page.verdict("note", "Few patients", f"Under 50 patients, these figures are mostly chance: {', '.join(few)}.")
    page.charts([(_forest(runs.classifications), "With 95 % intervals; the broken line is guessing.")])
    page.heading("ROC curves")
    sets = _groups(runs.classifications)
    groups = [group for group in sets if len(group[0][1]) >= FEWEST]
    if small := [run.name for group in sets for run, _ in group if group not in groups]:
        page.missing(f"No curves for {', '.join(small)}: fewer than {FEWEST} images say nothing.")
    for group in groups[:_GROUPS]:
        _curves(page, group)
    if others := [run.name for group in groups[_GROUPS:] for run, _ in group]:
        page.missing(f"Not drawn here: {', '.join(others)}. Their folders have their own curves.")


def _section(run: Run) -> str:
    return str(run.content.get("section", "")).partition(" (")[0]


def _forest(found: list[Run]) -> str:
    figures = [figure((run.content.get("mean") or {}).get("auc")) for run in found]
    values, low, high = zip(*figures, strict=True)
    return draw_forest("Mean AUC", "AUC", [run.name for run in found], values, low, high, reference=0.5)


def _groups(found: list[Run]) -> list[list[tuple[Run, list[dict[str, str]]]]]:
    """Runs that were evaluated on the same images are drawn together."""
    groups: dict[frozenset[str], list[tuple[Run, list[dict[str, str]]]]] = {}
    for run in found:
        if (path := run.file("cases.csv")) is not None and (rows := read_table(path)):
            groups.setdefault(frozenset(row["file"] for row in rows), []).append((run, rows))
    # Test images first, then those on which most runs can be compared.
    return sorted(groups.values(), key=lambda group: (_section(group[0][0]) != "test", -len(group)))


def _curves(page: Page, group: list[tuple[Run, list[dict[str, str]]]]) -> None:
    shown = group[:_LINES]
    names = ", ".join(run.name for run, _ in shown)
    count = len(shown[0][1])
    drawn, undefined = [], []
    for name in classes_of(shown[0][1]):
        chart = Chart(
            name.replace("_", " "), "1 - specificity", "sensitivity", x_range=(0, 1), y_range=(0, 1), diagonal=True
        )
        words = []
        for run, rows in shown:
            if name not in classes_of(rows):
                continue
            case = scored(rows, name)
            if not case.defined:
                continue
            edges = band(case)
            false, true = roc(case.scores, case.truth)
            if edges is None:
                chart.line(run.name, false.tolist(), true.tolist())
            else:
                low, high = (edge.tolist() for edge in edges)
                chart.line(run.name, GRID.tolist(), at(GRID, false, true).tolist(), low, high)
            words.append(_area(run, name, area(case.scores, case.truth)))
        if words:
            drawn.append(
                (chart.svg(), "AUC " + "; ".join(words) + f". {int(case.truth.sum())} of {count} images have it.")
            )
        else:
            undefined.append(name.replace("_", " "))
    page.paragraph(f"{names}: {_section(shown[0][0]) or 'labelled'} images, n = {count}.")
    page.charts(drawn)
    if undefined:
        page.missing(f"No curve for {', '.join(undefined)}: every known label there is of one kind.")
    if len(group) > _LINES:
        page.missing(f"{len(group) - _LINES} more runs on the same images are not drawn.")


def _area(run: Run, name: str, value: float) -> str:
    """The area with the interval the evaluation wrote; without one, the area alone."""
    written = (run.content["classes"].get(name) or {}).get("auc")
    return with_interval(written) or f"{value:.3f}"
