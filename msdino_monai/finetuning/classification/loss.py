"""What a classifier learns from: labels some of which may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.errors import UserError


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy of logits (B, C) over the labels (B, C) that are known; below 0 is missing.

    Args:
        positive_weights: how much more a positive of each class counts than a negative.
    """

    positive_weights: torch.Tensor | None

    def __init__(self, positive_weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("positive_weights", positive_weights)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = (labels >= 0).to(logits.dtype)
        wanted = labels.clamp_min(0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=self.positive_weights)
        return (losses * known).sum() / known.sum().clamp_min(1)


class MultiClassLoss(nn.Module):
    """Cross-entropy of logits (B, C) over the labels (B,) that are known; below 0 is missing.

    Args:
        weights: how much each class counts.
    """

    weights: torch.Tensor | None

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known, wanted = labels >= 0, labels.clamp_min(0)
        losses = F.cross_entropy(logits, wanted, weight=self.weights, reduction="none") * known
        shares = known.to(logits.dtype) if self.weights is None else self.weights[wanted] * known
        return losses.sum() / shares.sum().clamp_min(1e-12)


def class_weights(
    choice: str | Sequence[float] | None, labels: torch.Tensor, num_classes: int, task: str, largest: float = 20.0
) -> torch.Tensor | None:
    """None for equal weights, `balanced` for those that the training labels' frequencies suggest, or one number each.

    Multi-label: (n, C) labels, weights of positives. Multi-class: (n,) labels, weights with mean 1. Both stay below
    `largest`, so that a class seen once does not decide everything.
    """
    if choice is None:
        return None
    if isinstance(choice, str) and choice != "balanced":
        raise UserError(f"--class_weights must be balanced or one number for each class, got {choice!r}.")
    if not isinstance(choice, str):
        given = torch.as_tensor(tuple(choice) if isinstance(choice, (list, tuple)) else (choice,)).float()
        if given.shape != (num_classes,) or not bool((given > 0).all()):
            raise UserError(f"--class_weights needs {num_classes} numbers above 0, got {choice!r}.")
        return given
    if task == "multi_label":
        known = labels >= 0
        positives = (labels.clamp_min(0) * known).sum(0).float()
        negatives = known.sum(0) - positives
        return (negatives / positives.clamp_min(1)).clamp(1 / largest, largest)
    counts = torch.bincount(labels[labels >= 0].long(), minlength=num_classes).float()
    weights = (counts.sum() / (num_classes * counts.clamp_min(1))).clamp(1 / largest, largest)
    return weights / weights.mean()
