"""How good a classifier's scores are, class by class; NaN where the labels leave a figure undefined.

Scores and labels are (n, C); labels are 1, 0, or below 0 where nobody knows, and a share of at least a half counts as
positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import calibration_binning

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]


class Curve(NamedTuple):
    """What every threshold gives, from the strictest on: `score >= threshold` is positive."""

    thresholds: Scores
    true_positives: Scores
    false_positives: Scores


def curve_of(scores: Scores, truth: Truth) -> Curve:
    """Counts at every distinct score; equal scores stand or fall together."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.array([], dtype=np.intp)
    return Curve(scores[last], np.cumsum(hits)[last].astype(float), np.cumsum(~hits)[last].astype(float))


def roc_auc(scores: Scores, truth: Truth) -> float:
    """Share of (positive, negative) pairs in the right order, ties half; NaN without both."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return math.nan
    curve = curve_of(scores, truth)
    wins = np.diff(curve.false_positives, prepend=0.0) * (
        curve.true_positives + np.concatenate([[0.0], curve.true_positives[:-1]])
    )
    return float(wins.sum() / (2 * positives * negatives))


def average_precision(scores: Scores, truth: Truth) -> float:
    """Precision at every threshold, weighted by the recall it adds; NaN without positives or without negatives."""
    positives = int(truth.sum())
    if not positives or positives == len(truth):
        return math.nan
    curve = curve_of(scores, truth)
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    return float((np.diff(curve.true_positives, prepend=0.0) * precision).sum() / positives)


def sensitivity_at_specificity(scores: Scores, truth: Truth, specificity: float = 0.9) -> float:
    """The largest sensitivity of a threshold with at least this specificity; NaN without both kinds."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return math.nan
    curve = curve_of(scores, truth)
    allowed = 1 - curve.false_positives / negatives >= specificity - 1e-12
    return float(curve.true_positives[allowed].max(initial=0.0) / positives)


def balanced_accuracy(positive: Truth, truth: Truth) -> float:
    """The mean of sensitivity and specificity of decisions; NaN without both kinds."""
    if not truth.any() or truth.all():
        return math.nan
    return float(positive[truth].mean() / 2 + (~positive[~truth]).mean() / 2)


def calibration_error(probabilities: Scores, truth: Truth, num_bins: int = 10) -> float:
    """The mean gap between predicted and observed frequency over equal bins, weighted by their counts."""
    if not len(truth):
        return math.nan
    predicted, observed, counts = reliability(probabilities, truth, num_bins)
    known = counts > 0
    return float((np.abs(predicted - observed)[known] * counts[known]).sum() / counts.sum())


def reliability(probabilities: Scores, truth: Truth, num_bins: int = 10) -> tuple[Scores, Scores, Scores]:
    """Mean probability, share of positives and count of each bin; NaN in empty bins."""
    bins = calibration_binning(
        torch.from_numpy(probabilities.astype(np.float32))[None, None],
        torch.from_numpy(truth.astype(np.float32))[None, None],
        num_bins=num_bins,
    )
    predicted, observed, counts = (each[0, 0].double().numpy() for each in bins)
    return predicted, observed, counts


def youden_threshold(scores: Scores, truth: Truth) -> float:
    """The threshold with the largest sensitivity + specificity, halfway to the next score below; NaN without both."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return math.nan
    curve = curve_of(scores, truth)
    best = int((curve.true_positives / positives - curve.false_positives / negatives).argmax())
    below = curve.thresholds[best + 1] if best + 1 < len(curve.thresholds) else curve.thresholds[best]
    return float((curve.thresholds[best] + below) / 2)


def per_class(figure: Callable[[Scores, Truth], float], scores: Scores, labels: Scores) -> list[float]:
    """A figure of each class on the cases whose label is known."""
    figures = []
    for column, label in zip(scores.T, labels.T, strict=True):
        known = label >= 0
        figures.append(figure(column[known], label[known] >= 0.5))
    return figures


def mean_of_defined(figures: list[float]) -> float:
    """The mean over the classes that have the figure; NaN if none has."""
    defined = [figure for figure in figures if math.isfinite(figure)]
    return sum(defined) / len(defined) if defined else math.nan
