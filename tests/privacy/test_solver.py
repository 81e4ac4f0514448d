from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.privacy.solver import PairScores, join_greedily, solve


def perfect(grid: tuple[int, int], order: np.ndarray, noise: float = 0.0, seed: int = 0) -> PairScores:
    """Scores of tokens whose true cells are `order`: 5 for neighbours, 0 otherwise, and noise."""
    rows, columns = np.divmod(order, grid[1])
    down, across = rows[None] - rows[:, None], columns[None] - columns[:, None]
    generator = np.random.default_rng(seed)
    right, below = ((down == 0) & (across == 1), (down == 1) & (across == 0))
    return PairScores(
        *[(5.0 * near + noise * generator.standard_normal(near.shape)).astype(np.float32) for near in (right, below)]
    )


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_right_scores_put_every_token_in_place(noise: float) -> None:
    order = np.random.default_rng(1).permutation(42)
    np.testing.assert_array_equal(solve(perfect((6, 7), order, noise).competing(), (6, 7)), order)


def test_dropped_tokens_leave_gaps_where_they_were() -> None:
    order = np.random.default_rng(2).permutation(64)[:52]
    cells = solve(perfect((8, 8), order).competing(), (8, 8))
    assert len(set(cells)) == 52
    pairs = perfect((8, 8), order).right > 0, perfect((8, 8), cells).right > 0
    assert (pairs[0] & pairs[1]).sum() > 0.9 * pairs[0].sum()


def test_places_alone_are_followed_where_pairs_say_nothing() -> None:
    order = np.random.default_rng(3).permutation(36)
    places = np.zeros((36, 36), dtype=np.float32)
    places[np.arange(36), order] = 2
    none = np.zeros((36, 36), dtype=np.float32)
    np.testing.assert_array_equal(solve(PairScores(none, none), (6, 6), places), order)


def test_pieces_never_outgrow_the_frame_nor_overlap() -> None:
    generator = np.random.default_rng(4)
    scores = PairScores(*generator.standard_normal((2, 30, 30)).astype(np.float32)).competing()
    pieces = join_greedily(scores, (5, 6))
    assert sorted(token for piece in pieces for token in piece) == list(range(30))
    for piece in pieces:
        rows, columns = zip(*piece.values(), strict=True)
        assert max(rows) - min(rows) < 5
        assert max(columns) - min(columns) < 6
        assert len(set(piece.values())) == len(piece)


def test_every_cell_holds_one_token_at_most() -> None:
    scores = PairScores(*np.random.default_rng(5).standard_normal((2, 20, 20)).astype(np.float32)).competing()
    cells = solve(scores, (5, 5))
    assert len(set(cells.tolist())) == 20
    assert cells.min() >= 0
    assert cells.max() < 25


def test_same_seed_solves_alike() -> None:
    scores = PairScores(*np.random.default_rng(6).standard_normal((2, 36, 36)).astype(np.float32)).competing()
    np.testing.assert_array_equal(solve(scores, (6, 6), seed=1), solve(scores, (6, 6), seed=1))


def test_scores_compete_for_one_neighbour() -> None:
    raw = np.zeros((3, 3), dtype=np.float32)
    raw[0, 1] = raw[0, 2] = raw[1, 2] = 5
    competing = PairScores(raw, raw).competing().right
    assert competing[0, 1] > competing[0, 2]  # 2 may follow 1, too; 1 follows nobody else


def test_impossible_puzzles_are_refused() -> None:
    none = np.zeros((10, 10), dtype=np.float32)
    with pytest.raises(ValueError, match="10 tokens do not fit 3 x 3 cells"):
        solve(PairScores(none, none), (3, 3))
    with pytest.raises(ValueError, match="two \\(K, K\\) matrices"):
        PairScores(none, none[:5])
