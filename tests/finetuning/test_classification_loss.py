from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.loss import MultiClassLoss, MultiLabelLoss, class_weights


def test_missing_labels_have_no_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[1.0, 0, -1], [0, -1, -1], [1, 1, 0], [-1, -1, -1]])
    MultiLabelLoss()(logits, labels).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, labels >= 0)
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known])
    torch.testing.assert_close(MultiLabelLoss()(logits, labels), expected)


def test_weights_make_positives_count_more() -> None:
    logits, labels = torch.randn(8, 2), (torch.rand(8, 2) < 0.5).float()
    weights = torch.tensor([3.0, 0.5])
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    torch.testing.assert_close(MultiLabelLoss(weights)(logits, labels), expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0])])
def test_cross_entropy_is_torchs_where_labels_are_known(weights: torch.Tensor | None) -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 2, -1, 1, 2, -1])
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=-1)
    torch.testing.assert_close(MultiClassLoss(weights)(logits, labels), expected)


def test_batch_without_any_label_costs_nothing() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    for loss in (MultiLabelLoss()(logits, -torch.ones(2, 3)), MultiClassLoss()(logits, torch.tensor([-1, -1]))):
        assert loss == 0
        loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_follow_the_known_labels() -> None:
    labels = torch.tensor([[1.0, 1], [0, -1], [0, 0], [0, -1]])
    weights = class_weights("balanced", labels, 2, "multi_label")
    assert weights is not None
    assert weights.tolist() == [3.0, 1.0]
    numbers = class_weights("balanced", torch.tensor([0, 0, 0, 1, -1]), 2, "multi_class")
    assert numbers is not None
    assert numbers[1] / numbers[0] == pytest.approx(3.0)
    assert float(numbers.mean()) == pytest.approx(1.0)


def test_class_seen_never_does_not_decide_everything() -> None:
    weights = class_weights("balanced", torch.zeros(1000, 1), 1, "multi_label")
    assert weights is not None
    assert weights.item() == 20.0


def test_given_weights_are_checked() -> None:
    labels = torch.zeros(2, 2)
    assert class_weights(None, labels, 2, "multi_label") is None
    given = class_weights((1, 2.5), labels, 2, "multi_label")
    assert given is not None
    assert given.tolist() == [1.0, 2.5]
    for choice in ("fair", (1.0,), (1.0, -1.0)):
        with pytest.raises(UserError, match="--class_weights"):
            class_weights(choice, labels, 2, "multi_label")
