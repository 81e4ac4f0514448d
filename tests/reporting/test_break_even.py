from __future__ import annotations

import pytest

from msdino_monai.reporting.break_even import break_even_images, export_bytes, federated_bytes


def test_bytes_are_counted_by_hand() -> None:
    assert export_bytes(images=24, views=4, tokens=64, dim=128, item_bytes=2) == 24 * 4 * 64 * 128 * 2
    assert federated_bytes(rounds=25, trained_bytes=1_846_384 * 4) == 369_276_800


@pytest.mark.parametrize(("rounds", "returned"), [(1, 0), (10, 0), (100, 3_376_104)])
def test_both_ways_cost_the_same_at_break_even(rounds: int, returned: float) -> None:
    image = export_bytes(1, 1, 196, 384, 2)
    images = break_even_images(rounds, 3_376_104, image, returned)
    assert images > 0
    sent = export_bytes(images, 1, 196, 384, 2) + returned
    assert sent == pytest.approx(federated_bytes(rounds, 3_376_104))
    assert export_bytes(images * 0.9, 1, 196, 384, 2) + returned < federated_bytes(rounds, 3_376_104)


def test_half_the_bytes_of_an_image_allow_twice_the_images() -> None:
    assert break_even_images(10, 1e6, 500) == pytest.approx(2 * break_even_images(10, 1e6, 1000))


def test_export_never_wins_where_the_body_alone_is_dearer() -> None:
    assert break_even_images(1, 1000, 50, returned_bytes=2001) == 0


def test_image_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        break_even_images(1, 1000, 0)
