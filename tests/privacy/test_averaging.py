from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import RandAffine

from msdino_monai.privacy.averaging import average_views
from msdino_monai.privacy.similarity import compare_pictures


def views_of(picture: np.ndarray, noise: float) -> np.ndarray:
    """Four views as an export draws them, noise on each."""
    affine = RandAffine(
        prob=1.0, padding_mode="zeros", rotate_range=0.1, translate_range=(10, 10), scale_range=(0.05, 0.05)
    )
    affine.set_random_state(seed=0)
    generator = np.random.default_rng(0)
    moved = [picture, *(np.asarray(affine(torch.from_numpy(picture)[None]))[0] ** gamma for gamma in (0.8, 1.1, 1.2))]
    return np.stack([view + noise * generator.standard_normal(view.shape) for view in moved]).clip(0, 1)


@pytest.mark.parametrize(("noise", "gain"), [(0.05, 3.0), (0.15, 4.0)])
def test_noise_averages_out_over_views(pictures: np.ndarray, noise: float, gain: float) -> None:
    views = views_of(pictures[0], noise).astype(np.float32)
    one, together = (compare_pictures(each, pictures[0]) for each in (views[0], average_views(views)[-1]))
    assert together.psnr > one.psnr + gain  # 6 dB would be four perfect copies
    assert together.ssim > one.ssim


def test_views_without_noise_keep_the_picture(pictures: np.ndarray) -> None:
    assert compare_pictures(average_views(views_of(pictures[0], 0.0).astype(np.float32))[-1], pictures[0]).ssim > 0.95


def test_dropped_patches_are_filled_by_other_views_and_not_averaged_in(pictures: np.ndarray) -> None:
    views = views_of(pictures[0], 0.0).astype(np.float32)
    cells = np.random.default_rng(1).random((len(views), 14, 14)) < 0.5
    shown = cells.repeat(16, 1).repeat(16, 2).astype(np.float32)
    one, together = (
        compare_pictures(each, pictures[0]) for each in (views[0] * shown[0], average_views(views * shown, shown)[-1])
    )
    assert together.psnr > one.psnr + 6


def test_one_view_is_its_own_average(pictures: np.ndarray) -> None:
    (only,) = average_views(pictures[:1])
    np.testing.assert_array_equal(only, pictures[0])


def test_every_number_of_views_is_averaged_as_if_there_were_no_more(pictures: np.ndarray) -> None:
    views = views_of(pictures[0], 0.05).astype(np.float32)
    found = average_views(views)
    assert len(found) == len(views)
    np.testing.assert_array_equal(found[1], average_views(views[:2])[-1])
