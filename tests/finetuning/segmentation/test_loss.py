from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from msdino_monai.errors import UserError
from msdino_monai.finetuning.segmentation.network import SegmentationLoss
from msdino_monai.finetuning.segmentation.task import task_of


def soft_dice_loss(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """One channel (B, H, W) over the whole batch."""
    return 1 - (2 * (probability * truth).sum() + 1e-5) / (probability.sum() + truth.sum() + 1e-5)


def test_exclusive_classes_learn_by_dice_and_cross_entropy() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8), dtype=torch.uint8)
    loss = SegmentationLoss(task_of("multi_class", ["a", "b"]), dice_weight=0.5, cross_entropy_weight=2.0)
    probability = scores.softmax(dim=1)
    dice = torch.stack([soft_dice_loss(probability[:, k], (target[:, 0] == k).float()) for k in (1, 2)]).mean()
    entropy = F.cross_entropy(scores, target[:, 0].long())
    torch.testing.assert_close(loss(scores, target), 0.5 * dice + 2.0 * entropy)


def test_labels_that_may_overlap_learn_one_by_one() -> None:
    """Not by a softmax over the labels, which MONAI's DiceCELoss takes here."""
    torch.manual_seed(0)
    scores, target = torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 3, 8, 8), dtype=torch.uint8)
    loss = SegmentationLoss(task_of("multi_label", ["a", "b", "c"]))
    probability = scores.sigmoid()
    dice = torch.stack([soft_dice_loss(probability[:, k], target[:, k].float()) for k in range(3)]).mean()
    torch.testing.assert_close(loss(scores, target), dice + F.binary_cross_entropy_with_logits(scores, target.float()))


@pytest.mark.parametrize(("task", "classes", "channels"), [("multi_class", "ab", 3), ("multi_label", "ab", 2)])
def test_class_weights_weigh_their_class(task: str, classes: str, channels: int) -> None:
    scores = torch.zeros(1, channels, 4, 4)
    target = torch.full((1, 1, 4, 4), 2) if task == "multi_class" else torch.ones(1, 2, 4, 4)
    plain, heavy = (SegmentationLoss(task_of(task, classes), weights, dice_weight=0.0) for weights in (None, (1, 9)))
    if task == "multi_class":  # a weighted mean over pixels: one class alone is unchanged by its weight
        target[..., 0] = 1
        scores[:, 1] = 2.0
    assert heavy(scores, target) > plain(scores, target)


def test_binary_weight_may_be_one_number() -> None:
    scores, target = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    plain, heavy = (SegmentationLoss(task_of("binary", ["a"]), weight, dice_weight=0.0) for weight in (None, 3.0))
    torch.testing.assert_close(heavy(scores, target), 3 * plain(scores, target))


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(UserError, match="--class_weights needs 2 positive numbers, one for each of a,b; got"):
        SegmentationLoss(task_of("multi_class", ["a", "b"]), (1, 2, 3))
    with pytest.raises(UserError, match="positive numbers"):
        SegmentationLoss(task_of("multi_class", ["a", "b"]), (1, -2))
    with pytest.raises(ValueError, match="must not be negative nor both 0"):
        SegmentationLoss(task_of("binary", ["a"]), dice_weight=0.0, cross_entropy_weight=0.0)
