"""The figure by which a training chooses its best weights."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric

from msdino_monai.distributed import gather_objects
from msdino_monai.errors import UserError
from msdino_monai.finetuning.segmentation.task import Task


class MeanCaseDice(CumulativeIterationMetric):
    """Dice of decided pixels (B, C, H, W): the mean over cases for each class, then over classes.

    A class that is neither there nor predicted leaves its case out; one that is predicted where it is not counts 0. So
    false alarms cost something, and a rare finding is not drowned by the healthy.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Per case and class, (B, classes); NaN where both are empty."""
        if y is None:
            raise ValueError("y must be the masks.")
        scores = []
        for decided, target in zip(y_pred, y, strict=True):
            predicted, truth = self.task.layers(decided), self.task.layers(target)
            common = (predicted & truth).sum(dim=(1, 2))
            total = predicted.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
            scores.append(2.0 * common / total)  # 0 / 0 is NaN
        return torch.stack(scores).float()

    def aggregate(self) -> torch.Tensor:
        """NaN where no class is there in any case."""
        return self.class_means().nanmean()

    def class_means(self) -> torch.Tensor:
        """One mean over cases for each class."""
        return self.get_buffer().nanmean(dim=0)

    def get_buffer(self) -> torch.Tensor:
        """The figures of all cases of all ranks, (cases, classes); MONAI's own way needs a case on every rank."""
        rows = gather_objects([row.tolist() for row in self._buffers[0]] if self._buffers else [])
        if not rows:
            raise UserError("no case could be validated; quarantine.csv in --output_dir says why.")
        return torch.tensor(rows)
