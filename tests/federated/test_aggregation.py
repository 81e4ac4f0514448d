from __future__ import annotations

import numpy as np
import pytest
import torch

from msdino_monai.errors import UserError
from msdino_monai.federated.aggregation import fedavg, flap, has_pairs, refactored


def pairs(sites: int, rank: int, inputs: int, outputs: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(rank + inputs)
    a = [torch.randn(rank, inputs, generator=generator) for _ in range(sites)]
    b = [torch.randn(outputs, rank, generator=generator) for _ in range(sites)]
    return a, b


def dense(a: list[torch.Tensor], b: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return sum((w * y.double() @ x.double() for w, x, y in zip(weights, a, b, strict=True)), torch.zeros(()))


@pytest.mark.parametrize(("sites", "rank", "inputs", "outputs"), [(3, 4, 40, 30), (2, 8, 9, 50), (5, 6, 12, 8)])
def test_refactored_pair_is_the_best_of_its_rank_by_dense_algebra(
    sites: int, rank: int, inputs: int, outputs: int
) -> None:
    a, b = pairs(sites, rank, inputs, outputs)
    weights = [(index + 1) / sum(range(1, sites + 1)) for index in range(sites)]
    new_a, new_b = refactored(a, b, weights)
    u, s, vh = torch.linalg.svd(dense(a, b, weights), full_matrices=False)
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    assert new_a.shape == a[0].shape
    assert new_b.shape == b[0].shape
    torch.testing.assert_close(new_b.double() @ new_a.double(), best, rtol=1e-5, atol=1e-5)


def test_one_site_keeps_its_product_exactly() -> None:
    a, b = pairs(1, 3, 20, 10)
    new_a, new_b = refactored(a, b, [1.0])
    torch.testing.assert_close(new_b @ new_a, b[0] @ a[0], rtol=1e-5, atol=1e-5)


def test_rows_of_a_stay_orthonormal_where_nothing_was_learnt() -> None:
    a, b = pairs(3, 4, 20, 10)
    new_a, new_b = refactored(a, [torch.zeros_like(each) for each in b], [0.2, 0.3, 0.5])
    torch.testing.assert_close(new_a @ new_a.T, torch.eye(4), rtol=1e-5, atol=1e-5)
    assert new_b.abs().max() == 0


def test_turning_to_the_previous_factors_keeps_the_product_and_comes_nearer() -> None:
    a, b = pairs(3, 4, 20, 10)
    weights = [0.2, 0.3, 0.5]
    previous, _ = refactored(a, b, weights)
    moved = [each + 0.01 * torch.randn(each.shape, generator=torch.Generator().manual_seed(1)) for each in a]
    free_a, free_b = refactored(moved, b, weights)
    near_a, near_b = refactored(moved, b, weights, previous=previous.flip(0))
    torch.testing.assert_close(near_b @ near_a, free_b @ free_a, rtol=1e-4, atol=1e-5)
    assert (near_a - previous.flip(0)).norm() < (free_a - previous.flip(0)).norm()


def test_fedavg_is_the_mean_weighted_by_counts() -> None:
    sites = [{"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))} for seed in range(3)]
    expected = np.average(np.stack([site["w"].numpy() for site in sites]), axis=0, weights=[10, 20, 70])
    np.testing.assert_allclose(fedavg(sites, [10, 20, 70])["w"].numpy(), expected, rtol=1e-6)


def test_flap_refactors_pairs_and_averages_the_rest() -> None:
    a, b = pairs(2, 2, 6, 5)
    lonely = [torch.ones(2, 3), torch.zeros(2, 3)]
    sites = [
        {"q.lora_a": a[i], "q.lora_b": b[i], "bias": torch.full((4,), float(i)), "odd.lora_a": lonely[i]}
        for i in range(2)
    ]
    merged = flap(sites, [1, 3], sites[0])
    assert list(merged) == list(sites[0])
    torch.testing.assert_close(merged["bias"], torch.full((4,), 0.75))
    torch.testing.assert_close(merged["odd.lora_a"], torch.full((2, 3), 0.25))
    u, s, vh = torch.linalg.svd(dense(a, b, [0.25, 0.75]), full_matrices=False)
    product = merged["q.lora_b"].double() @ merged["q.lora_a"].double()
    torch.testing.assert_close(product, u[:, :2] * s[:2] @ vh[:2], rtol=1e-5, atol=1e-5)


def test_averaging_factors_is_not_averaging_products() -> None:
    a, b = pairs(2, 2, 6, 5)
    sites = [{"q.lora_a": a[i], "q.lora_b": b[i]} for i in range(2)]
    wrong = fedavg(sites, [1, 1])
    right = flap(sites, [1, 1])
    exact = dense(a, b, [0.5, 0.5])
    errors = [(each["q.lora_b"].double() @ each["q.lora_a"].double() - exact).norm() for each in (right, wrong)]
    assert errors[0] < errors[1]


def test_pairs_are_found_by_their_names() -> None:
    assert has_pairs({"x.lora_a": torch.zeros(1), "x.lora_b": torch.zeros(1)})
    assert not has_pairs({"x.lora_a": torch.zeros(1), "y.lora_b": torch.zeros(1)})


@pytest.mark.parametrize("counts", [[], [0, 3], [-1, 3], [float("nan"), 1]])
def test_sites_without_samples_are_refused(counts: list[float]) -> None:
    with pytest.raises(UserError, match="positive"):
        fedavg([{"w": torch.zeros(1)}] * max(len(counts), 1), counts)
