from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from msdino_monai.pretraining import MaskedSampling
from msdino_monai.pretraining.sampling import Subsets, draw_share, draw_subsets


def z_score(counts: np.ndarray, expected: float, variance: float) -> float:
    """Chi-square of counts with this variance each, standardised to about N(0, 1)."""
    return float((np.square(counts - expected).sum() / variance - counts.size) / np.sqrt(2 * counts.size))


def batch(images: list[int], num_views: int = 1, num_tokens: int = 8, **place: int) -> dict[str, Any]:
    """Tokens that say which image, view and token they are: (B, V, N, 3)."""
    names = torch.stack(
        torch.meshgrid(torch.tensor(images), torch.arange(num_views), torch.arange(num_tokens), indexing="ij"), dim=-1
    )
    return {"image": names + 1, "index": np.array(images), "epoch": 0, "batch": 0, **place}


def draw(sampling: MaskedSampling, batch_: dict[str, Any]) -> Subsets:
    subsets, labels = sampling(batch_, "cpu")
    assert labels is None
    return subsets


def test_every_token_comes_equally_often_and_none_twice() -> None:
    subsets = draw_subsets(12, 5, 2, np.arange(6000), 0, 3, 1)  # (2, 6000, 5)
    assert all(len(set(subset)) == 5 for subset in subsets.reshape(-1, 5)[:500])
    counts, share, draws = np.bincount(subsets.ravel(), minlength=12), 5 / 12, 12_000
    # Counts of one draw without replacement hang together: their chi-square has 11 degrees, spread over 12 cells.
    assert abs(z_score(counts, draws * share, draws * share * (1 - share) * 12 / 11)) < 4


def test_every_pair_of_tokens_comes_equally_often() -> None:
    subsets = np.sort(draw_subsets(6, 3, 1, np.arange(20_000), 0, 0, 1)[0], axis=1)
    combinations, counts = np.unique(subsets, axis=0, return_counts=True)
    assert combinations.tolist() == [list(subset) for subset in itertools.combinations(range(6), 3)]
    assert abs((np.square(counts - 1000).sum() / 1000 - 19) / np.sqrt(38)) < 4


def test_first_place_of_a_subset_is_as_good_as_the_last() -> None:
    """The order within a subset is random, too: a rising order would tell where a token stood."""
    subsets = draw_subsets(10, 4, 1, np.arange(4000), 0, 0, 1)[0]
    np.testing.assert_allclose(subsets.mean(0), 4.5, atol=0.2)


def test_subset_depends_on_nothing_but_its_keys() -> None:
    together = draw_subsets(9, 4, 3, np.array([5, 8, 2, 7]), 1, 2, 0)
    apart = np.concatenate([draw_subsets(9, 4, 3, np.array([image]), 1, 2, 0) for image in (5, 8, 2, 7)], axis=1)
    np.testing.assert_array_equal(together, apart)
    for keys in ((0, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not np.array_equal(draw_subsets(9, 4, 3, np.array([5, 8, 2, 7]), *keys), together)


def test_batch_sampled_in_two_halves_is_the_same() -> None:
    sampling = MaskedSampling((0.5, 1.0), (0.1, 0.5), num_local=3, hidden_share=0.3, seed=4)
    whole = draw(sampling, batch([3, 1, 4, 9], num_views=2, epoch=5, batch=6))
    halves = [draw(sampling, batch(part, num_views=2, epoch=5, batch=6)) for part in ([3, 1], [4, 9])]
    for name in Subsets._fields:
        parts = torch.cat([getattr(half, name) for half in halves], dim=1)
        assert torch.equal(getattr(whole, name), parts), name


def test_subsets_of_an_image_hold_its_own_tokens() -> None:
    subsets = draw(MaskedSampling(0.75, 0.4, num_local=2), batch([6, 3]))
    assert subsets.large.shape == (2, 2, 6, 3)
    assert subsets.small is not None
    assert subsets.small.shape == (2, 2, 3, 3)
    for group in (subsets.large, subsets.small):
        assert (group[..., 0] == torch.tensor([7, 4])[None, :, None]).all()


@pytest.mark.parametrize("num_views", [2, 3, 5])
def test_large_subsets_never_share_a_view(num_views: int) -> None:
    subsets = draw(MaskedSampling(num_local=4), batch(list(range(200)), num_views=num_views))
    first, second = subsets.large[..., 1]  # (B, K)
    assert (first == first[:, :1]).all(), "one subset, one view"
    assert (first[:, 0] != second[:, 0]).all()
    assert len(first[:, 0].unique()) == num_views, "no view is always first"


def test_two_subsets_of_an_image_are_drawn_apart() -> None:
    subsets = draw(MaskedSampling(0.5, 0.5, num_local=2), batch(list(range(300)), num_tokens=6))
    assert subsets.small is not None
    drawn = [{*row.tolist()} for group in (subsets.large, subsets.small) for row in group[..., 2].flatten(0, 1)]
    for one, other in itertools.combinations(range(4), 2):
        same = np.mean([drawn[300 * one + image] == drawn[300 * other + image] for image in range(300)])
        assert same == pytest.approx(1 / 20, abs=0.06)  # 20 subsets of 3 in 6


def test_share_between_bounds_is_even_and_one_for_the_batch() -> None:
    shares = [draw_share((0.2, 0.6), 0, 0, number) for number in range(4000)]
    assert 0.2 <= min(shares) < 0.21
    assert 0.59 < max(shares) < 0.6
    counts = np.histogram(shares, 8, (0.2, 0.6))[0]
    assert (np.square(counts - 500).sum() / 500 - 7) / np.sqrt(14) < 4
    sampling = MaskedSampling((0.25, 1.0), num_local=0)
    lengths = {draw(sampling, batch([0, 1], batch=number)).large.shape[2] for number in range(60)}
    assert lengths == set(range(2, 9))


def test_subset_holds_at_least_one_token_and_at_most_all() -> None:
    assert MaskedSampling(1.0, 0.01).sizes(9) == (9, 1)
    subsets = draw(MaskedSampling(1.0, 0.01, num_local=1), batch([0]))
    assert sorted(subsets.large[0, 0, :, 2].tolist()) == list(range(1, 9))
    assert subsets.small is not None
    assert subsets.small.shape[2] == 1


def test_hidden_shares_are_right() -> None:
    images = list(range(400))
    tokens = {**batch(images), "image": torch.ones(400, 1, 8, 20)}
    subsets = draw(MaskedSampling(0.75, hidden_share=0.3, hidden_channels=0.6, num_local=1), tokens)
    hidden, partly = subsets.hidden, subsets.partly_hidden
    assert hidden is not None
    assert partly is not None
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.03)
    lost = partly == 0
    assert lost[hidden].float().mean().item() == pytest.approx(0.6, abs=0.02)
    np.testing.assert_allclose(lost[hidden].float().mean(0), 0.6, atol=0.06)  # every channel alike
    assert not lost[~hidden].any()


def test_student_sees_less_than_the_teacher() -> None:
    subsets = draw(MaskedSampling(hidden_share=0.5, num_local=2), batch([1, 2, 3]))
    large, small = subsets.for_student()
    assert subsets.hidden is not None
    assert torch.equal(large[~subsets.hidden], subsets.large[~subsets.hidden])
    assert not torch.equal(large, subsets.large)
    assert small is subsets.small
    alone = draw(MaskedSampling(num_local=0), batch([1, 2, 3]))
    assert len(alone.for_student()) == 1
    assert alone.hidden is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_share": 0.0}, "global_share must be in"),
        ({"global_share": 1.2}, "got 1.2"),
        ({"local_share": (0.5, 0.2)}, "lower bound first"),
        ({"local_share": (0.1, 0.2, 0.3)}, "two bounds"),
        ({"local_share": "0.4"}, "local_share must be in"),
        ({"num_local": -1}, "got -1"),
        ({"hidden_share": 1.0}, "hidden shares"),
        ({"hidden_channels": 0.0}, "hidden shares"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedSampling(**settings)
