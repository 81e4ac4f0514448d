"""Attribute inference: site, view or findings, read off pooled tokens by a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.networks.linear_probe import fit_linear
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.linkage import pool_tokens
from msdino_monai.privacy.ranking import area_under_curve

Floats = npt.NDArray[np.float32]

KNOWLEDGE = Knowledge(labels=True)


Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class AttributeScore:
    """Of held-out images; `chance` is the share of the commonest class, AUC's is 0.5."""

    accuracy: float
    chance: float
    auc: float


def infer_attribute(
    tokens: Floats, labels: Integers, *, folds: int = 4, decay: float = 0.1, seed: int = 0
) -> AttributeScore:
    """Cross-validated: token sets (B, K, D), one class (B,) each; AUC is the mean of one class against the rest."""
    return score_attribute(guess_attribute(tokens, labels, folds=folds, decay=decay, seed=seed), labels)


def guess_attribute(
    tokens: Floats,
    labels: Integers,
    *,
    patients: Sequence[str] = (),
    folds: int = 4,
    decay: float = 0.1,
    seed: int = 0,
) -> npt.NDArray[np.floating[Any]]:
    """Log-probabilities (B, C) of each image's class, from a probe that has not seen the image.

    Where `patients` (B,) are named, it has not seen the patient either: who is known is found by linkage.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("an attribute needs at least two classes among the images.")
    features = torch.from_numpy(pool_tokens(tokens))
    count, classes = len(labels), int(labels.max()) + 1
    named = [patient or f"image {number}" for number, patient in enumerate(patients or [""] * count)]
    people, person = np.unique(named, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(people)) % folds)[person]
    logits = torch.zeros(count, classes)
    for number in range(folds):
        known = fold != number
        weight, bias = fit_linear(features[known], torch.from_numpy(labels[known].astype(np.int64)), classes, decay)
        logits[~known] = torch.log_softmax(features[~known] @ weight.T + bias, dim=1)
    scores: npt.NDArray[np.floating[Any]] = logits.numpy()
    return scores


def score_attribute(scores: npt.NDArray[np.floating[Any]], labels: Integers) -> AttributeScore:
    """Judge log-probabilities (B, C)."""
    curves = [area_under_curve(scores[labels == one, one], scores[labels != one, one]) for one in np.unique(labels)]
    return AttributeScore(
        accuracy=float(np.mean(scores.argmax(1) == labels)),
        chance=float(np.bincount(labels).max() / len(labels)),
        auc=float(np.nanmean(curves)),
    )
