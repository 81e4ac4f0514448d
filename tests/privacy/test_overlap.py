from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import RandAffine

from msdino_monai.privacy.assembly import patch_classes, top_match
from msdino_monai.privacy.inversion import cut_patches
from msdino_monai.privacy.overlap import LinearMap, Registration, bridge, can_bridge, fit_patches, register, warp


def second_view(picture: np.ndarray, turn: float, scale: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    """The picture under an affine map, as the export's augmentation would move it."""
    affine = RandAffine(
        prob=1.0, padding_mode="zeros", rotate_range=[(turn, turn)], translate_range=[(s, s) for s in shift]
    )
    affine.rand_affine_grid.scale_range = [(each - 1, each - 1) for each in scale]
    return np.asarray(affine(torch.from_numpy(picture)[None]))[0]


@pytest.fixture(scope="module")
def views(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pictures[0], second_view(pictures[0], 0.0, (1.0, 1.0), (8.0, 8.0)) ** 1.3


def test_unmoved_patch_warps_to_itself() -> None:
    patches = np.random.default_rng(0).random((3, 12, 12)).astype(np.float32)
    warped, known = warp(patches, LinearMap())
    np.testing.assert_allclose(warped, patches, atol=1e-5)
    assert known.all()


def test_larger_patch_covers_more_and_keeps_its_middle() -> None:
    ramp = np.tile(np.arange(12, dtype=np.float32), (1, 12, 1))
    warped, known = warp(ramp, LinearMap(columns=1.5, rows=1.5))
    assert known.sum() > 1.7 * 144
    middle = warped.shape[-1] // 2
    step = warped[0, middle, middle + 1] - warped[0, middle, middle]
    assert step == pytest.approx(1 / 1.5, rel=1e-4)


def test_cut_from_another_patch_is_found_where_it_lies() -> None:
    picture = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    others = np.stack([picture[10:22, 10:22], picture[26:38, 2:14], picture[:12, 26:38]])
    moved = picture[13:25, 6:18][None]  # 3 rows below and 4 columns left of the first
    log_odds = fit_patches(
        np.concatenate([moved, np.random.default_rng(1).random((9, 12, 12), np.float32)]), others, LinearMap()
    )
    other, row, column = np.unravel_index(log_odds[0].argmax(), log_odds[0].shape)
    reach = log_odds.shape[-1] // 2
    assert (other, row - reach, column - reach) == (0, 3, -4)


def test_gamma_and_map_between_views_are_found(views: tuple[np.ndarray, np.ndarray]) -> None:
    moved = second_view(views[0], 0.0, (1.0, 1.0), (3.0, -5.0)) ** 1.3
    one, two = (cut_patches(view[None], 16, 2)[0] for view in (views[0], moved))
    found = register(one, two)
    assert found.log_gamma == pytest.approx(-np.log(1.3), abs=0.1)
    np.testing.assert_allclose(found.linear.matrix, np.eye(2), atol=0.12)


def test_wide_margin_is_out_of_reach_of_another_view() -> None:
    assert can_bridge(12, 16)
    assert not can_bridge(10, 16)
    patches = np.random.default_rng(0).random((9, 10, 10)).astype(np.float32)
    scores = bridge(patches, patches, Registration(0.0, LinearMap()), 16)
    assert not scores.right.any()
    assert not scores.down.any()


def test_other_view_bridges_the_margin(views: tuple[np.ndarray, np.ndarray]) -> None:
    """With pixels dropped around every patch nothing touches, but a shifted view shows what lies between."""
    patches = cut_patches(views[0][None], 16, 2)[0]
    classes = patch_classes(patches.reshape(196, -1))
    order = np.random.default_rng(0).permutation(196)
    one = patches[order]
    two = cut_patches(views[1][None], 16, 2)[0][np.random.default_rng(1).permutation(196)]
    scores = bridge(one, two, Registration(float(-np.log(1.3)), LinearMap()), 16).competing()
    assert top_match(scores.right, order, classes, 14) > 0.5
    unrelated = np.random.default_rng(2).permutation(two.reshape(-1)).reshape(two.shape)
    nothing = bridge(one, unrelated, Registration(0.0, LinearMap()), 16).competing()
    assert top_match(nothing.right, order, classes, 14) < 0.1
