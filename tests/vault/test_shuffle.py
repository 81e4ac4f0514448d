from __future__ import annotations

import numpy as np

from msdino_monai.vault import draw_orders, shuffle_tokens, unshuffle_tokens


def chi_square_is_plausible(counts: np.ndarray) -> bool:
    """Within six standard deviations of what independent uniform draws give: false alarms once in 10^8 runs."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return abs(statistic - freedom) < 6 * np.sqrt(2 * freedom)


def test_unshuffle_restores_token_order() -> None:
    tokens = np.random.default_rng(0).standard_normal((3, 49, 5))
    orders = draw_orders(3, 49)
    shuffled = shuffle_tokens(tokens, orders)
    assert not np.array_equal(shuffled, tokens)
    np.testing.assert_array_equal(unshuffle_tokens(shuffled, orders), tokens)


def test_unshuffle_leaves_dropped_tokens_zero() -> None:
    tokens = np.random.default_rng(0).standard_normal((2, 10, 3))
    orders = draw_orders(2, 10)[:, :6]
    restored = unshuffle_tokens(shuffle_tokens(tokens, orders), orders, num_tokens=10)
    for view in range(2):
        np.testing.assert_array_equal(restored[view, orders[view]], tokens[view, orders[view]])
        assert not restored[view, np.setdiff1d(np.arange(10), orders[view])].any()


def test_orders_are_permutations() -> None:
    np.testing.assert_array_equal(np.sort(draw_orders(50, 16), axis=1), np.tile(np.arange(16), (50, 1)))


def test_every_token_is_equally_likely_at_every_place() -> None:
    orders = draw_orders(20_000, 8)
    counts = np.array([np.bincount(orders[:, place], minlength=8) for place in range(8)])
    assert all(chi_square_is_plausible(row) for row in counts)


def test_two_views_are_shuffled_independently() -> None:
    orders = np.stack([draw_orders(2, 8) for _ in range(20_000)])  # (draws, V, N)
    for place in (0, 3, 7):
        pairs = np.bincount(orders[:, 0, place] * 8 + orders[:, 1, place], minlength=64)
        assert chi_square_is_plausible(pairs)


def test_the_chi_square_sees_a_biased_shuffle() -> None:
    biased = np.random.default_rng(0).integers(0, 8, 20_000)
    biased[:600] = 0
    assert not chi_square_is_plausible(np.bincount(biased, minlength=8))
