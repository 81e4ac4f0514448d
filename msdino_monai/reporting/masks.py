"""Section: how well masks are drawn, with the best, the median and the worst case."""

from __future__ import annotations

from msdino_monai.reporting.forest import draw_forest
from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.runs import Runs, figure, with_interval


def add(page: Page, runs: Runs) -> None:
    page.section("Masks: segmentation")
    if not runs.segmentations:
        page.missing("No evaluated segmentation run was found (metrics.json with mean_dice).")
        return
    rows: list[list[Cell]] = []
    for run in runs.segmentations:
        for name, found in run.content["classes"].items():
            rows.append(
                [
                    run.name,
                    str(run.content.get("section", "")),
                    name.replace("_", " "),
                    found.get("cases"),
                    with_interval(found.get("dice")),
                    with_interval(found.get("hd95_mm")),
                    found.get("missed"),
                    found.get("false"),
                    found.get("false_alarms_per_image"),
                ]
            )
    page.table(
        [
            "run",
            "section",
            "class",
            "cases",
            "Dice",
            "95 % Hausdorff distance, mm",
            "missed",
            "false",
            "false alarms a case",
        ],
        rows,
        "Dice is 1 where the mask is right and 0 where it misses everything; 95 % bootstrap intervals over patients. "
        "Missed and false count cases; a false alarm is a separate piece where there is nothing.",
    )
    page.charts([(_forest(runs), "Of each class, with 95 % intervals.")])
    if not runs.pictures:
        return
    for run in runs.segmentations:
        found = [(name, run.file(f"overlay_{name}.png")) for name in ("best", "median", "worst")]
        pictures = [
            Picture(path, f"{name} case of {run.name}, prediction over truth", f"{run.name}: the {name} case.")
            for name, path in found
            if path is not None
        ]
        if pictures:
            page.heading(f"Best, median and worst: {run.name}")
            page.pictures(pictures, size=300)
        else:
            page.missing(f"{run.name} left no overlays.")


def _forest(runs: Runs) -> str:
    names, figures = [], []
    for run in runs.segmentations:
        for name, found in run.content["classes"].items():
            names.append(f"{run.name}, {name.replace('_', ' ')}")
            figures.append(figure(found.get("dice")))
    values, low, high = zip(*figures, strict=True)
    return draw_forest("Dice", "Dice", names, values, low, high)
