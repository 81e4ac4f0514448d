from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from msdino_monai.errors import UserError
from msdino_monai.finetuning.segmentation.metric import MeanCaseDice
from msdino_monai.finetuning.segmentation.task import class_names, task_of

MASK = torch.tensor([[0, 1, 1], [2, 2, 0]], dtype=torch.uint8)


def test_classes_that_exclude_each_other_are_one_channel_of_numbers() -> None:
    task = task_of("multi_class", ["right", "left"])
    assert task.out_channels == 3
    assert task.allowed() == (0, 1, 2)
    assert task.encode(MASK).equal(MASK[None])
    assert task.layers(task.encode(MASK)).equal(torch.stack([MASK == 1, MASK == 2]))


def test_labels_have_a_channel_each() -> None:
    task = task_of("multi_label", ["a", "b", "c"])
    assert task.out_channels == 3
    assert task.encode(MASK).shape == (3, 2, 3)
    assert task.layers(task.encode(MASK)).equal(torch.stack([MASK == 1, MASK == 2, MASK == 3]))


def test_binary_masks_may_be_painted_white() -> None:
    task = task_of("binary", ["lesion"])
    assert task.out_channels == 1
    assert task.allowed() == (0, 1, 255)
    white = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert task.encode(white).tolist() == [[[0, 1]]]


def test_unknown_tasks_and_too_many_classes_are_refused() -> None:
    with pytest.raises(UserError, match="--task must be one of multi_class, binary, multi_label, got 'softmax'"):
        task_of("softmax", ["a"])
    with pytest.raises(UserError, match="binary has one class, got --classes a,b"):
        task_of("binary", ["a", "b"])


def test_class_names_come_from_the_user_the_datalist_or_custom(tmp_path: Path) -> None:
    assert class_names("a, b", "x", "multi_class") == ("a", "b")
    assert class_names(("a", "b"), "x", "multi_class") == ("a", "b")
    assert class_names(None, "lungs", "multi_class") == ("right_lung", "left_lung")
    assert class_names(None, "heart", "binary") == ("heart",)
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": ["nodule", "effusion"], "classes": ["l", "r"]}))
    assert class_names(None, "label", "multi_class", None, tmp_path) == ("l", "r")
    (tmp_path / "own.json").write_text(json.dumps({"labels": ["nodule", "effusion"]}))
    assert class_names(None, "lesions", "multi_label", tmp_path / "own.json", tmp_path) == ("nodule", "effusion")


def test_nameless_and_repeated_classes_are_refused() -> None:
    with pytest.raises(UserError, match="nothing says what the values of the masks 'heart' mean; give --classes"):
        class_names(None, "heart", "multi_class")
    with pytest.raises(UserError, match="must be different names"):
        class_names("a,a", "x", "multi_class")


def test_mean_dice_leaves_out_what_is_neither_there_nor_predicted() -> None:
    metric = MeanCaseDice(task_of("multi_class", ["a", "b", "c"]))
    truth = torch.tensor([[[[1, 1, 0, 0]]], [[[0, 0, 0, 0]]], [[[2, 2, 0, 0]]]])
    predicted = torch.tensor([[[[1, 0, 0, 0]]], [[[0, 0, 0, 1]]], [[[2, 2, 0, 0]]]])
    metric(predicted, truth)
    means = metric.class_means()
    # a: 2/3 where it is there, 0 where it is a false alarm, left out of the third; b: 1 in its only case; c: nowhere.
    torch.testing.assert_close(means, torch.tensor([1 / 3, 1.0, float("nan")]), equal_nan=True)
    assert metric.aggregate() == pytest.approx(2 / 3)


def test_mean_dice_takes_lists_of_one_channel_per_label() -> None:
    metric = MeanCaseDice(task_of("multi_label", ["a", "b"]))
    truth = [torch.tensor([[[1, 1]], [[0, 0]]])]
    metric([torch.tensor([[[1, 1]], [[0, 1]]])], truth)
    assert metric.class_means().tolist() == [1.0, 0.0]
    metric.reset()
    metric([torch.zeros(2, 1, 2)], [torch.zeros(2, 1, 2)])
    assert metric.aggregate().isnan()
