from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.pretraining.keyed import keyed_bits, keyed_order, keyed_uniform


def chi_square(counts: np.ndarray) -> float:
    """Standardised: about N(0, 1) where all cells are equally likely."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return float((np.square(counts - expected).sum() / expected - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_numbers_are_uniform_between_0_and_1(seed: int) -> None:
    numbers = keyed_uniform(seed, 3, np.arange(100_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(chi_square(np.histogram(numbers, 256, (0, 1))[0])) < 4


@pytest.mark.parametrize("key", [0, 1, 2])
def test_neighbouring_keys_give_unrelated_numbers(key: int) -> None:
    """Whatever key counts up, pairs of successive numbers fill the square evenly."""
    keys = [np.full(100_001, 7), np.full(100_001, 8), np.full(100_001, 9)]
    keys[key] = np.arange(100_001)
    numbers = keyed_uniform(*keys)
    assert abs(chi_square(np.histogram2d(numbers[:-1], numbers[1:], 16, [(0, 1), (0, 1)])[0])) < 4


def test_every_bit_is_set_half_of_the_time() -> None:
    bits = keyed_bits(5, np.arange(50_000))
    shares = [float(((bits >> np.uint64(place)) & np.uint64(1)).mean()) for place in range(64)]
    np.testing.assert_allclose(shares, 0.5, atol=0.01)


def test_numbers_do_not_depend_on_what_is_asked_for_with_them() -> None:
    together = keyed_uniform(1, 2, np.arange(10)[:, None], np.arange(6))
    apart = [[float(keyed_uniform(1, 2, row, column)) for column in range(6)] for row in range(10)]
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(together[3:5, 2:], keyed_uniform(1, 2, np.arange(3, 5)[:, None], np.arange(2, 6)))


def test_order_of_keys_matters() -> None:
    assert keyed_bits(1, 2) != keyed_bits(2, 1)
    assert keyed_bits(0) != keyed_bits(0, 0)


def test_orders_are_permutations_that_differ_by_key() -> None:
    orders = [keyed_order(50, 0, epoch, 100) for epoch in range(20)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 20


def test_orders_are_uniform() -> None:
    """All 24 orders of four things come equally often."""
    weights = 4 ** np.arange(4)
    found = [int(keyed_order(4, 0, epoch) @ weights) for epoch in range(12_000)]
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 24
    assert abs(chi_square(counts)) < 4
