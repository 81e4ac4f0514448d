"""Attribute inference: site, view or findings, read off pooled tokens by a linear probe."""

from __future__ import annotations

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


@dataclass(frozen=True)
class AttributeScore:
    """Of held-out images; `chance` is the share of the commonest class, AUC's is 0.5."""

    accuracy: float
    chance: float
    auc: float


def infer_attribute(
    tokens: Floats, labels: npt.NDArray[np.integer[Any]], *, folds: int = 4, decay: float = 0.1, seed: int = 0
) -> AttributeScore:
    """Cross-validated: token sets (B, K, D), one class (B,) each; AUC is the mean of one class against the rest."""
    if len(np.unique(labels)) < 2:
        raise ValueError("an attribute needs at least two classes among the images.")
    features = torch.from_numpy(pool_tokens(tokens))
    count, classes = len(labels), int(labels.max()) + 1
    fold = np.random.default_rng(seed).permutation(count) % folds
    logits = torch.zeros(count, classes)
    for number in range(folds):
        known = fold != number
        weight, bias = fit_linear(features[known], torch.from_numpy(labels[known].astype(np.int64)), classes, decay)
        logits[~known] = torch.log_softmax(features[~known] @ weight.T + bias, dim=1)
    guessed, scores = logits.argmax(1).numpy(), logits.numpy()
    curves = [area_under_curve(scores[labels == one, one], scores[labels != one, one]) for one in np.unique(labels)]
    return AttributeScore(
        accuracy=float(np.mean(guessed == labels)),
        chance=float(np.bincount(labels).max() / count),
        auc=float(np.nanmean(curves)),
    )
