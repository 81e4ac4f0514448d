"""The network of a segmentation and its loss: new, or as a trained model describes itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceLoss

from msdino_monai.errors import UserError
from msdino_monai.finetuning.encoder import build_encoder, encoder_sizes
from msdino_monai.finetuning.model_card import ModelCard
from msdino_monai.finetuning.segmentation.task import Task, task_of
from msdino_monai.networks.segmenter import Segmenter


def build_segmenter(out_channels: int, feature_size: int = 16, **encoder: Any) -> Segmenter:
    """A segmenter on the encoder that `build_encoder` makes of the other settings."""
    return Segmenter(build_encoder(**encoder), out_channels, feature_size)


def describe_segmenter(network: Segmenter, task: str, classes: Sequence[str], **more: Any) -> dict[str, Any]:
    """What goes beside the weights, so that `SegmenterCard` can build the network again."""
    sizes = {**encoder_sizes(network.encoder), "feature_size": network.feature_size}
    return {"network": sizes, "task": task, "classes": list(classes), **more}


class SegmenterCard(ModelCard):
    """What a trained segmenter says of itself."""

    def __init__(self, model: str | Path, metadata: str | Path) -> None:
        super().__init__(model, metadata, task="multi_class", first_channel=1)
        self.label_key = str(self.said.get("label_key", "lungs"))
        self.threshold = float(self.said.get("threshold", 0.5))
        self.img_size = int(self.sizes.get("img_size", 224))

    def network(self, fused_attention: bool = False) -> Segmenter:
        """The network these weights belong to, with fresh weights."""
        sizes = {"img_size": self.img_size, **self.sizes}
        out_channels = task_of(self.task, self.classes).out_channels
        return build_segmenter(out_channels, fused_attention=fused_attention, **sizes)


class SegmentationLoss(torch.nn.Module):
    """Dice over the whole batch plus cross entropy, on scores (B, C, H, W) and targets as `Task.encode` makes them.

    Dice over the batch, not image by image: a finding that an image lacks would count as missed there. MONAI's
    `DiceCELoss` is its two parts here, because it takes softmax for several sigmoids.

    Args:
        task: classes that exclude each other, or not.
        class_weights: one for each class, the background not counted; None weighs all alike.
        dice_weight: of the Dice term.
        cross_entropy_weight: of the cross entropy.
    """

    def __init__(
        self,
        task: Task,
        class_weights: Any = None,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if min(dice_weight, cross_entropy_weight) < 0 or dice_weight + cross_entropy_weight == 0:
            raise ValueError(
                f"dice_weight and cross_entropy_weight must not be negative nor both 0, "
                f"got {dice_weight} and {cross_entropy_weight}."
            )
        weights = _weights(task, class_weights)
        self.exclusive = task.exclusive
        self.dice_weight, self.cross_entropy_weight = dice_weight, cross_entropy_weight
        self.dice = DiceLoss(
            include_background=not task.exclusive,
            to_onehot_y=task.exclusive,
            softmax=task.exclusive,
            sigmoid=not task.exclusive,
            batch=True,
            weight=weights,
        )
        if task.exclusive:
            background = torch.ones(1)
            self.cross_entropy: torch.nn.Module = torch.nn.CrossEntropyLoss(
                None if weights is None else torch.cat([background, weights])
            )
        else:
            self.cross_entropy = torch.nn.BCEWithLogitsLoss(
                pos_weight=None if weights is None else weights[:, None, None]
            )

    def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        scores = scores.float()  # float16 has no room for the sum over a batch of pixels
        self.to(scores.device)  # class weights come from the configuration, wherever the network is
        entropy = self.cross_entropy(scores, target[:, 0].long() if self.exclusive else target.float())
        loss: torch.Tensor = self.dice_weight * self.dice(scores, target) + self.cross_entropy_weight * entropy
        return loss


def _weights(task: Task, class_weights: Any) -> torch.Tensor | None:
    if class_weights is None:
        return None
    given = [class_weights] if isinstance(class_weights, (int, float)) else list(class_weights)
    if len(given) != len(task.classes) or not all(isinstance(w, (int, float)) and w > 0 for w in given):
        raise UserError(
            f"--class_weights needs {len(task.classes)} positive numbers, one for each of {','.join(task.classes)}; "
            f"got {class_weights!r}."
        )
    return torch.tensor([float(weight) for weight in given])
