from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from msdino_monai.finetuning.segmentation.score import dice, distances, found_lesions, score, untouched


def layer(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes (top, left, bottom, right) in a picture of 40 x 50."""
    pixels = np.zeros((40, 50), dtype=bool)
    for top, left, bottom, right in boxes:
        pixels[top:bottom, left:right] = True
    return pixels


def test_dice_is_twice_the_common_area_over_both() -> None:
    assert dice(layer((0, 0, 10, 10)), layer((0, 5, 10, 15))) == pytest.approx(0.5)
    assert dice(layer((3, 3, 9, 9)), layer((3, 3, 9, 9))) == 1.0
    assert dice(layer((0, 0, 2, 2)), layer((5, 5, 7, 7))) == 0.0


def test_empty_masks_are_handled_as_documented() -> None:
    both = score(layer(), layer())
    assert math.isnan(both.dice)
    assert math.isnan(both.hd95)
    assert (both.lesions, both.found, both.false_alarms) == (0, 0, 0)
    for found in (score(layer((1, 1, 4, 4)), layer()), score(layer(), layer((1, 1, 4, 4)))):
        assert found.dice == 0.0
        assert math.isnan(found.hd95)
        assert math.isnan(found.surface_distance)


def test_distance_of_shifted_boxes_is_the_shift() -> None:
    hd95, mean = distances(layer((5, 5, 15, 15)), layer((5, 9, 15, 19)), (1.0, 1.0))
    assert hd95 == pytest.approx(4.0)
    assert 0 < mean < 4.0
    assert distances(layer((5, 5, 15, 15)), layer((5, 5, 15, 15)), (1.0, 1.0)) == (0.0, 0.0)


def test_distances_are_in_millimetres_of_either_axis() -> None:
    across = distances(layer((5, 5, 35, 15)), layer((5, 9, 35, 19)), (0.5, 2.0))
    down = distances(layer((5, 5, 15, 45)), layer((9, 5, 19, 45)), (0.5, 2.0))
    assert across[0] == pytest.approx(8.0)
    assert down[0] == pytest.approx(2.0)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_monais(seed: int) -> None:
    generator = np.random.default_rng(seed)
    layers = []
    for _ in range(2):
        rows, columns = np.mgrid[0:40, 0:50]
        centre, radius = generator.uniform(15, 25, 2), generator.uniform(5, 12, 2)
        layers.append((((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2) < 1)
    tensors = [torch.from_numpy(each)[None, None] for each in layers]
    settings = {"include_background": True, "spacing": [0.7, 1.3]}
    hd95 = compute_hausdorff_distance(*tensors, percentile=95, **settings)
    mean = compute_average_surface_distance(*tensors, symmetric=True, **settings)
    assert distances(*layers, (0.7, 1.3)) == pytest.approx((float(hd95), float(mean)), rel=1e-4)


def test_mask_that_fills_the_picture_has_an_outline() -> None:
    whole = layer((0, 0, 40, 50))
    assert distances(whole, whole, (1.0, 1.0)) == (0.0, 0.0)
    hd95, _ = distances(whole, layer((0, 0, 40, 40)), (1.0, 1.0))
    assert hd95 == pytest.approx(10.0)


def test_lesion_counts_as_found_from_the_stated_share_on() -> None:
    truth = layer((0, 0, 10, 10), (20, 20, 30, 30), (35, 40, 37, 42))
    predicted = layer((0, 0, 10, 1), (20, 20, 30, 22))  # a tenth of the first, a fifth of the second
    assert found_lesions(predicted, truth, 0.1) == (3, 2)
    assert found_lesions(predicted, truth, 0.15) == (3, 1)
    assert found_lesions(layer(), truth, 0.1) == (3, 0)
    assert found_lesions(truth, truth, 1.0) == (3, 3)


def test_lesions_that_touch_at_corners_are_one() -> None:
    assert found_lesions(layer(), layer((0, 0, 5, 5), (5, 5, 9, 9)), 0.5) == (1, 0)


def test_false_alarm_is_a_part_that_touches_no_truth() -> None:
    predicted = layer((0, 0, 4, 4), (10, 10, 14, 14), (30, 30, 33, 33))
    assert untouched(predicted, layer((3, 3, 6, 6))) == 2
    assert untouched(predicted, layer()) == 3
    assert untouched(layer(), predicted) == 0
