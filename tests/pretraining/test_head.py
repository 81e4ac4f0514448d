from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from msdino_monai.pretraining import DINOHead
from msdino_monai.pretraining.head import BatchStandardisation


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_standardisation_is_batch_normalisation_without_memory() -> None:
    layer, rows = BatchStandardisation(4), (5 + 3 * torch.randn(7, 4)).requires_grad_()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    found, expected = layer(rows), F.batch_norm(rows, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(found, expected)
    inputs, weights = [rows, layer.weight, layer.bias], torch.randn(7, 4)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not list(layer.buffers())
    torch.testing.assert_close(layer.eval()(rows), found)


def test_standardisation_keeps_float32_inside_and_the_type_outside() -> None:
    rows = (1000 + torch.randn(64, 4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = BatchStandardisation(4)(rows)
    assert found.dtype == torch.bfloat16
    expected = F.batch_norm(rows.float(), None, None, training=True)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("standardise", [True, False])
def test_similarities_are_cosines(standardise: bool) -> None:
    head = DINOHead(6, num_prototypes=9, mlp_dim=12, bottleneck_dim=4, standardise=standardise)
    logits = head(torch.randn(5, 6))
    assert logits.shape == (5, 9)
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.prototypes.mul_(7)
    torch.testing.assert_close(head(torch.ones(5, 6)), head(torch.ones(5, 6)))
    bottleneck = F.normalize(head.mlp(torch.ones(5, 6)), dim=-1)
    torch.testing.assert_close(head(torch.ones(5, 6)), bottleneck @ F.normalize(head.prototypes, dim=-1).T)


def test_nearly_parallel_features_are_told_apart_only_when_standardised() -> None:
    """What makes a fresh body's features on radiographs learnable."""
    features = torch.ones(32, 16) + 0.01 * torch.randn(32, 16)
    spread = {}
    for standardise in (True, False):
        torch.manual_seed(1)
        spread[standardise] = float(DINOHead(16, 8, 32, 8, standardise)(features).std(0).mean().detach())
    assert spread[True] > 10 * spread[False]
