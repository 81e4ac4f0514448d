"""What the classes of a volume's mask are."""

from __future__ import annotations

import torch

from msdino_monai.finetuning.segmentation.task import MultiClass


class VolumeClasses(MultiClass):
    """Every voxel has one class, or is background: softmax."""

    def layers(self, decided: torch.Tensor) -> torch.Tensor:
        """Decided voxels (1, ...) to one yes-or-no layer for each class, (classes, ...)."""
        numbers = torch.arange(1, len(self.classes) + 1, device=decided.device)
        return decided == numbers.reshape(-1, *[1] * (decided.ndim - 1))
