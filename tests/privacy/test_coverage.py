"""What several views can be joined by at all."""

from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandFlip

from msdino_monai.exporting.affine import RandAffinePicture
from msdino_monai.privacy.coverage import draw_maps, estimate, joinable_share


def moved(rows: float, columns: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = rows, columns
    return matrix


@pytest.fixture
def augment() -> Compose:
    """The export's own."""
    affine = RandAffinePicture(
        prob=1.0, rotate_range=0.1, translate_range=[11.2, 11.2], scale_range=[0.15, 0.15], padding_mode="zeros"
    )
    return Compose([affine, RandAdjustContrast(prob=0.8, gamma=(0.7, 1.4))])


def test_one_view_joins_nothing_and_views_that_lie_on_each_other_neither() -> None:
    assert joinable_share([np.eye(3)], 14, 16, 8) == 0
    assert joinable_share([np.eye(3)] * 5, 14, 16, 8) == 0


def test_view_shifted_by_half_a_patch_joins_what_a_small_margin_left() -> None:
    """Patches of 12 pixels leave gaps of 4; those of the other view reach over them with 4 to spare on both sides."""
    shifted = [np.eye(3), moved(8, 8)]
    assert joinable_share(shifted, 14, 16, 12, least=4) > 0.9
    assert joinable_share(shifted, 14, 16, 12, least=4.5) == 0


def test_gap_as_wide_as_a_patch_needs_three_links() -> None:
    """At margin 4 a patch of another view fills the gap and shares nothing with either side."""
    assert joinable_share([np.eye(3), moved(0, 8)], 14, 16, 8, least=0.5) == 0
    chain = [np.eye(3), moved(0, 5), moved(0, 10)]
    assert joinable_share(chain, 14, 16, 8, least=2) > 0.4  # all along the rows, none along the columns
    assert joinable_share(chain, 14, 16, 8, least=3.5) == 0


def test_maps_are_those_the_export_draws(augment: Compose) -> None:
    one, other = draw_maps(augment, 2, 224, seed=3)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(one, draw_maps(augment, 1, 224, seed=3)[0])
    assert np.abs(one[:2, 2]).max() <= 11.2
    assert np.linalg.det(one[:2, :2]) == pytest.approx(1, abs=0.35)


def test_more_views_and_smaller_margins_join_more(augment: Compose) -> None:
    by_views = [estimate(augment, views, 224, 16, 8, gap=None) for views in (1, 2, 4)]
    assert by_views[0] == 0
    assert by_views[1] < 0.01  # boxes round turned patches are a little too large
    assert 0.1 < by_views[2] < 0.5
    by_width = [estimate(augment, 2, 224, 16, width, gap=None) for width in (8, 10, 12)]
    assert by_width == sorted(by_width)
    assert by_width[2] > 0.2
    assert estimate(augment, 2, 224, 16, 8) > 0.1  # patches that abut


def test_patch_that_abuts_is_a_link() -> None:
    """At margin 4 a patch of another view can fill the gap exactly; its edges continue on both sides."""
    shifted = [np.eye(3), moved(0, 8)]
    assert joinable_share(shifted, 14, 16, 8) == 0
    assert joinable_share(shifted, 14, 16, 8, gap=0) > 0.4
    assert joinable_share([np.eye(3), moved(0, 11)], 14, 16, 8, gap=2) == 0  # three pixels on one side


def test_motion_that_is_not_followed_joins_everything(augment: Compose) -> None:
    affine, still = augment.transforms
    for unknown in (RandAffine(prob=1, translate_range=5), Compose([affine, affine]), RandFlip(prob=0.5)):
        assert estimate(unknown, 2, 224, 16, 8) == 1
        assert estimate(unknown, 1, 224, 16, 8) == 0
    nested = Compose([still, Compose([affine])])
    assert estimate(nested, 2, 224, 16, 8) == estimate(augment, 2, 224, 16, 8)
    assert estimate(still, 4, 224, 16, 8) == 0


def test_view_that_is_not_moved_lies_where_it_lay() -> None:
    affine = RandAffinePicture(prob=0.5, rotate_range=0.1, translate_range=[11.2, 11.2], padding_mode="zeros")
    still = [np.array_equal(each, np.eye(3)) for each in draw_maps(affine, 40, 224)]
    assert 8 < sum(still) < 32
