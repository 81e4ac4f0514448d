"""Figures of attacks that rank: who is it, was it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LinkageScore:
    """How well queries find their own among a gallery; `chance` is the top-1 of a guess."""

    top_1: float
    mean_average_precision: float
    auc: float
    chance: float


@dataclass(frozen=True)
class MembershipScore:
    """How well members are told from others; chance is 0.5 and 0.01."""

    auc: float
    tpr_at_1_percent_fpr: float


def score_linkage(similarity: Doubles, matches: npt.NDArray[np.bool_]) -> LinkageScore:
    """From similarities (Q, G) and what truly belongs together (Q, G); queries that belong to nothing do not count."""
    asked = matches.any(1)
    if not asked.any():
        raise ValueError("no query has a match in the gallery.")
    similarity, matches = similarity[asked], matches[asked]
    order = np.argsort(-similarity, axis=1, kind="stable")
    hits = np.take_along_axis(matches, order, 1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return LinkageScore(
        top_1=float(hits[:, 0].mean()),
        mean_average_precision=float(((precision * hits).sum(1) / hits.sum(1)).mean()),
        auc=area_under_curve(similarity[matches], similarity[~matches]),
        chance=float(matches.mean(1).mean()),
    )


def score_membership(members: Doubles, others: Doubles) -> MembershipScore:
    """From one score each, high for those who look like members."""
    return MembershipScore(area_under_curve(members, others), true_positives(members, others, 0.01))


def area_under_curve(positives: Doubles, negatives: Doubles) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    if not len(positives) or not len(negatives):
        return float("nan")
    ranked = np.sort(negatives)
    below, upto = np.searchsorted(ranked, positives, "left"), np.searchsorted(ranked, positives, "right")
    return float((below + upto).mean() / 2 / len(ranked))


def true_positives(positives: Doubles, negatives: Doubles, false_positives: float) -> float:
    """Share of positives above the threshold that at most this share of negatives exceeds."""
    allowed = int(np.floor(false_positives * len(negatives)))
    threshold = np.sort(negatives)[::-1][allowed]
    return float(np.mean(positives > threshold))
