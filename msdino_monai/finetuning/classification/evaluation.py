"""The report on labelled images: figures with intervals, one row for each case, and pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msdino_monai.finetuning.classification.calibration import Calibration
from msdino_monai.finetuning.classification.metrics import (
    Scores,
    average_precision,
    balanced_accuracy,
    calibration_error,
    curve_of,
    mean_of_defined,
    per_class,
    reliability,
    roc_auc,
    sensitivity_at_specificity,
)
from msdino_monai.finetuning.classification.predictions import Cases
from msdino_monai.finetuning.intervals import Rows, bootstrap_intervals
from msdino_monai.finetuning.report import write_csv, write_json, write_picture

_log = logging.getLogger(__name__)
FIGURES = ("auc", "average_precision", "sensitivity", "balanced_accuracy", "calibration_error")


def report(
    folder: str | Path,
    cases: Cases,
    calibration: Calibration,
    *,
    specificity: float = 0.9,
    bootstrap_repeats: int = 1000,
    seed: int = 0,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `metrics.json`, `cases.csv` and, with matplotlib, `roc.png` and `reliability.png`; returns the metrics."""
    probabilities = calibration.probabilities(torch.from_numpy(cases.logits)).double().numpy()
    metrics = {
        **(about or {}),
        **figures_with_intervals(cases, probabilities, calibration, specificity, bootstrap_repeats, seed),
    }
    write_json(Path(folder, "metrics.json"), metrics)
    write_csv(Path(folder, "cases.csv"), _case_rows(cases, probabilities, calibration))
    if find_spec("matplotlib"):
        write_picture(Path(folder, "roc.png"), _roc_picture(cases, probabilities, calibration.classes))
        write_picture(Path(folder, "reliability.png"), _reliability_picture(cases, probabilities, calibration.classes))
    else:
        _log.info("No pictures: matplotlib is not installed (pip install msdino-monai[report]).")
    for remark in metrics["undefined"]:
        _log.warning("Undefined, and null in metrics.json: %s.", remark)
    mean = metrics["mean"]["auc"]
    if mean["value"] is not None:
        _log.info("Mean AUC %.3f (%s) on %d images: %s", mean["value"], _range(mean), len(cases.files), folder)
    return metrics


def figures_with_intervals(
    cases: Cases, probabilities: Scores, calibration: Calibration, specificity: float, repeats: int, seed: int
) -> dict[str, Any]:
    """Every figure of every class and their means, each with its 95 % bootstrap interval over patients."""
    classes, labels = calibration.classes, cases.labels

    def table(rows: Rows) -> list[list[float]]:
        return _table(probabilities[rows], labels[rows], calibration, specificity)

    def flat(rows: Rows) -> list[float]:
        return [figure for line in table(rows) for figure in line]

    count = len(cases.files)
    values = flat(np.arange(count))
    intervals = bootstrap_intervals(flat, count, repeats=repeats, seed=seed, groups=cases.groups)
    pairs = [_figure(value, interval) for value, interval in zip(values, intervals, strict=True)]
    width = len(classes) + 1
    by_figure = {name: pairs[place * width : (place + 1) * width] for place, name in enumerate(_names(calibration))}
    content: dict[str, Any] = {
        "images": count,
        "patients": len(set(cases.groups)),
        "specificity": specificity,
        "temperature": calibration.temperature,
        "intervals": f"95 % bootstrap over patients, {repeats} draws, seed {seed}",
        "mean": {name: figures[-1] for name, figures in by_figure.items()},
        "classes": {},
        "undefined": [],
    }
    for place, name in enumerate(classes):
        known = labels[:, place] >= 0
        positive = int((labels[known, place] >= 0.5).sum())
        negative = int(known.sum()) - positive
        content["classes"][name] = {
            "positive": positive,
            "negative": negative,
            "unknown": int((~known).sum()),
            "threshold": calibration.thresholds[place] if calibration.task == "multi_label" else None,
            **{each: figures[place] for each, figures in by_figure.items() if each != "accuracy"},
        }
        if not positive or not negative:
            content["undefined"].append(f"{name}: all {positive + negative} known labels are of one kind")
    return content


def _names(calibration: Calibration) -> tuple[str, ...]:
    return FIGURES if calibration.task == "multi_label" else (*FIGURES, "accuracy")


def _table(probabilities: Scores, labels: Scores, calibration: Calibration, specificity: float) -> list[list[float]]:
    """For each figure: one value a class, then their mean."""
    called = calibration.positives(probabilities)
    balanced = []
    for place in range(labels.shape[1]):
        known = labels[:, place] >= 0
        balanced.append(balanced_accuracy(called[known, place], labels[known, place] >= 0.5))
    lines = [
        per_class(roc_auc, probabilities, labels),
        per_class(average_precision, probabilities, labels),
        per_class(partial(sensitivity_at_specificity, specificity=specificity), probabilities, labels),
        balanced,
        per_class(calibration_error, probabilities, labels),
    ]
    lines = [[*line, mean_of_defined(line)] for line in lines]
    if calibration.task == "multi_class":
        known = labels[:, 0] >= 0
        right = (called & (labels >= 0.5))[known].any(axis=1)
        lines.append([math.nan] * labels.shape[1] + [float(right.mean()) if known.any() else math.nan])
    return lines


def _figure(value: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    if not math.isfinite(value):
        return {"value": None, "interval": None}
    return {"value": value, "interval": interval}


def _range(figure: dict[str, Any]) -> str:
    return "no interval" if figure["interval"] is None else "95 %: {:.3f} to {:.3f}".format(*figure["interval"])


def _case_rows(cases: Cases, probabilities: Scores, calibration: Calibration) -> list[dict[str, Any]]:
    rows = []
    called = calibration.positives(probabilities)
    for place, (file, patient) in enumerate(zip(cases.files, cases.patients, strict=True)):
        row: dict[str, Any] = {"file": file, "patient": patient}
        for column, name in enumerate(calibration.classes):
            label = cases.labels[place, column]
            row[f"{name} label"] = None if label < 0 else label
            row[f"{name} probability"] = probabilities[place, column]
            row[f"{name} positive"] = int(called[place, column])
        rows.append(row)
    return rows


def _grid(count: int) -> tuple[Any, list[Any]]:
    """A figure and one set of axes for each class."""
    from matplotlib.figure import Figure

    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _roc_picture(cases: Cases, probabilities: Scores, classes: Sequence[str]) -> Any:
    figure, axes = _grid(len(classes))
    for place, (name, axis) in enumerate(zip(classes, axes, strict=True)):
        known = cases.labels[:, place] >= 0
        truth = cases.labels[known, place] >= 0.5
        auc = roc_auc(probabilities[known, place], truth)
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        if math.isfinite(auc):
            curve = curve_of(probabilities[known, place], truth)
            false = np.concatenate([[0], curve.false_positives]) / (~truth).sum()
            true = np.concatenate([[0], curve.true_positives]) / truth.sum()
            axis.plot(false, true)
        title = f"AUC {auc:.3f}" if math.isfinite(auc) else "AUC undefined"
        axis.set_title(f"{name}: {title}", fontsize=9)
        axis.set(xlabel="1 - specificity", ylabel="sensitivity")
    return figure


def _reliability_picture(cases: Cases, probabilities: Scores, classes: Sequence[str]) -> Any:
    figure, axes = _grid(len(classes))
    for place, (name, axis) in enumerate(zip(classes, axes, strict=True)):
        known = cases.labels[:, place] >= 0
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        if known.any():
            truth = cases.labels[known, place] >= 0.5
            predicted, observed, counts = reliability(probabilities[known, place], truth, 10)
            axis.scatter(predicted, observed, s=4 + 80 * counts / counts.sum())
        axis.set_title(name, fontsize=9)
        axis.set(xlabel="predicted", ylabel="observed", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return figure
