from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from msdino_monai.finetuning.segmentation.score import Score
from msdino_monai.finetuning.volumes import MeanVolumeDice, VolumeClasses
from msdino_monai.finetuning.volumes.overlay import draw_slices, telling_slices
from msdino_monai.finetuning.volumes.score import distances, score_volume


def ball(middle: tuple[float, float, float], radius: float, shape: tuple[int, int, int] = (24, 20, 12)) -> np.ndarray:
    places = np.stack(np.mgrid[: shape[0], : shape[1], : shape[2]], axis=-1)
    return np.asarray(((places - np.array(middle)) ** 2).sum(axis=-1) <= radius**2)


def test_two_parallel_plates_are_as_far_apart_as_their_slices() -> None:
    ours, theirs = np.zeros((6, 6, 8), dtype=bool), np.zeros((6, 6, 8), dtype=bool)
    ours[..., 1], theirs[..., 4] = True, True
    assert distances(ours, theirs, (1.0, 1.0, 2.5)) == (7.5, 7.5)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns of itself
def test_hd95_agrees_with_monai() -> None:
    ours, theirs = ball((10, 9, 5), 5), ball((12, 9, 6), 4)
    spacing = (1.0, 1.5, 3.0)
    both = [torch.from_numpy(layer)[None, None].float() for layer in (ours, theirs)]
    expected = compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)
    assert score_volume(ours, theirs, spacing).hd95 == pytest.approx(float(expected), abs=0.5)


def test_score_is_blind_to_empty_surroundings() -> None:
    ours, theirs = ball((10, 9, 5), 5), ball((12, 9, 6), 4)
    padded = [np.pad(layer, 7) for layer in (ours, theirs)]
    assert score_volume(*padded, (1.0, 1.0, 3.0)) == score_volume(ours, theirs, (1.0, 1.0, 3.0))


def test_lesions_are_counted_in_three_dimensions() -> None:
    truth = ball((5, 5, 3), 2) | ball((18, 14, 8), 2)
    predicted = ball((5, 5, 3), 2) | ball((5, 15, 9), 1)
    found = score_volume(predicted, truth, (1, 1, 1))
    assert (found.lesions, found.found, found.false_alarms) == (2, 1, 1)


def test_what_is_empty_is_undefined_or_zero() -> None:
    empty, full = np.zeros((5, 5, 5), dtype=bool), ball((2, 2, 2), 1, (5, 5, 5))
    both: Score = score_volume(empty, empty, (1, 1, 1))
    assert math.isnan(both.dice)
    assert math.isnan(both.hd95)
    for ours, theirs in ((empty, full), (full, empty)):
        one = score_volume(ours, theirs, (1, 1, 1))
        assert one.dice == 0
        assert math.isnan(one.hd95)


def test_mean_dice_of_volumes_leaves_absent_classes_out() -> None:
    metric = MeanVolumeDice(VolumeClasses(["a", "b"]))
    truth = torch.zeros(1, 4, 4, 3)
    truth[0, :2, :, 0] = 1
    predicted = truth.clone()
    predicted[0, 0, :, 0] = 0
    metric([predicted], [truth])
    assert float(metric.aggregate()) == pytest.approx(2 * 4 / 12)


def test_layers_of_classes() -> None:
    numbers = torch.tensor([[[[0, 1], [2, 2]]]])
    layers = VolumeClasses(["a", "b"]).layers(numbers)
    assert layers.shape == (2, 1, 2, 2)
    assert layers.sum(dim=(1, 2, 3)).tolist() == [1, 2]


def test_pictures_show_the_slices_that_tell_most() -> None:
    truth = np.stack([ball((10, 9, 6), 4)])
    empty = np.zeros_like(truth)
    assert 6 in telling_slices(truth, empty)
    assert telling_slices(empty, empty) == [6]
    picture = draw_slices(np.zeros((24, 20, 12), dtype=np.float32), empty, truth, ["a"], "worst case")
    assert picture.startswith(b"\x89PNG")
