from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.privacy.assembly import patch_classes, score_assembly, top_match

GRID = (4, 5)
ORDER = np.random.default_rng(0).permutation(20)
ALL_DIFFERENT = np.arange(20)


def test_true_arrangement_scores_one() -> None:
    score = score_assembly(ORDER, ORDER, ALL_DIFFERENT, GRID)
    assert (score.neighbours, score.places, score.largest_piece) == (1, 1, 1)
    assert score.pairs == 4 * 4 + 3 * 5


def test_random_arrangement_scores_as_chance_says() -> None:
    generator = np.random.default_rng(1)
    scores = [score_assembly(generator.permutation(ORDER), ORDER, ALL_DIFFERENT, GRID) for _ in range(200)]
    # 16 pairs side by side have 16 places to meet, 15 pairs above each other 15, of 20 * 19 ordered pairs of cells.
    expected = (16 * 16 + 15 * 15) / 31 / (20 * 19)
    assert np.mean([score.neighbours for score in scores]) == pytest.approx(expected, rel=0.3)
    assert np.mean([score.chance for score in scores]) == pytest.approx(expected, abs=0.01)


def test_moved_picture_keeps_its_neighbours_but_not_its_places() -> None:
    rows, columns = np.divmod(ORDER, 5)
    moved = (rows + 1) % 4 * 5 + columns
    score = score_assembly(moved, ORDER, ALL_DIFFERENT, GRID)
    assert score.neighbours == pytest.approx((31 - 5) / 31)
    assert score.places == 0
    assert score.largest_piece == 15 / 20


def test_mirrored_picture_is_not_solved() -> None:
    rows, columns = np.divmod(ORDER, 5)
    assert score_assembly(rows * 5 + 4 - columns, ORDER, ALL_DIFFERENT, GRID).neighbours == pytest.approx(15 / 31)


def test_twins_earn_nothing_and_cost_nothing() -> None:
    classes = ALL_DIFFERENT.copy()
    classes[[0, 1, 19]] = 0  # the first two and the last cell are equally black
    swapped = ORDER.copy()
    swapped[ORDER == 0], swapped[ORDER == 19] = 19, 0
    score = score_assembly(swapped, ORDER, classes, GRID)
    assert (score.neighbours, score.places) == (1, 1)
    assert score.pairs == 31 - 6  # all that touch cells 0, 1 and 19


def test_frame_round_a_small_picture_is_no_news() -> None:
    """Half of the patches are black; a random arrangement must not look like knowledge."""
    classes = np.where(np.arange(20) % 5 < 2, 0, ALL_DIFFERENT)
    score = score_assembly(np.random.default_rng(3).permutation(ORDER), ORDER, classes, GRID)
    assert score.chance < 0.1
    assert score.chance_place == 1 / 20
    assert score_assembly(ORDER, ORDER, classes, GRID).neighbours == 1


def test_picture_of_one_colour_has_no_accuracy() -> None:
    score = score_assembly(ORDER, ORDER, np.zeros(20, dtype=np.int64), GRID)
    assert np.isnan(score.neighbours)
    assert np.isnan(score.places)


def test_patches_that_look_the_same_are_twins() -> None:
    slope = np.linspace(0, 1, 4)
    patches = np.stack([np.zeros(4), np.full(4, 0.001), np.ones(4), slope, slope[::-1], slope + 0.002, slope + 0.006])
    assert patch_classes(patches).tolist() == [0, 0, 2, 3, 4, 3, 6]


def test_top_match_counts_the_best_right_neighbour() -> None:
    scores = np.zeros((20, 20), dtype=np.float32)
    token_at = np.argsort(ORDER)
    for cell in range(19):
        scores[token_at[cell], token_at[cell + 1]] = 1
    assert top_match(scores, ORDER, ALL_DIFFERENT, 5) == 1
    assert top_match(scores.T, ORDER, ALL_DIFFERENT, 5) == 0


@pytest.mark.parametrize("kept", [8, 10])
def test_dropped_tokens_leave_a_figure_of_what_was_kept(kept: int) -> None:
    order = np.random.default_rng(kept).permutation(20)[:kept]
    score = score_assembly(order, order, ALL_DIFFERENT, GRID)
    assert score.neighbours == 1
    assert score.pairs < 31


def test_pairs_that_can_be_counted_on_one_hand_are_no_figure() -> None:
    assert np.isnan(score_assembly(np.arange(3), np.arange(3), ALL_DIFFERENT, GRID).neighbours)
