"""The figure by which a training on volumes chooses its best weights."""

from __future__ import annotations

import torch

from msdino_monai.finetuning.segmentation.metric import MeanCaseDice


class MeanVolumeDice(MeanCaseDice):
    """`MeanCaseDice` of whole volumes: decided voxels (B, 1, H, W, S)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Per case and class, (B, classes); NaN where both are empty."""
        if y is None:
            raise ValueError("y must be the masks.")
        scores = []
        for decided, target in zip(y_pred, y, strict=True):
            predicted, truth = (self.task.layers(each).flatten(1) for each in (decided, target))
            common = (predicted & truth).sum(dim=1)
            scores.append(2.0 * common / (predicted.sum(dim=1) + truth.sum(dim=1)))  # 0 / 0 is NaN
        return torch.stack(scores).float()
