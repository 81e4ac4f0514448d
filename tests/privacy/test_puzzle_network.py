from __future__ import annotations

import numpy as np
import pytest
import torch

from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.assembly import patch_classes, top_match
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches
from msdino_monai.privacy.puzzle_network import PuzzleNetwork, canonical_correlations, train_puzzle_network
from msdino_monai.privacy.simulation import SimulatedExport

GRID = (8, 8)


@pytest.fixture(scope="module")
def embedder() -> KnownEmbedder:
    return KnownEmbedder.of(PatchEmbedding(64, 8, 24, 1))


@pytest.fixture(scope="module")
def export(auxiliary: torch.Tensor, embedder: KnownEmbedder) -> SimulatedExport:
    return SimulatedExport.of(auxiliary, embedder)


@pytest.fixture(scope="module")
def trained(export: SimulatedExport) -> PuzzleNetwork:
    """Has not seen the last four images."""
    return train_puzzle_network(SimulatedExport(export.tokens[:-4], export.images[:-4]), GRID, steps=60)


def test_training_teaches_neighbours_and_places_of_unseen_people(
    trained: PuzzleNetwork, export: SimulatedExport, embedder: KnownEmbedder
) -> None:
    matched, placed = [], []
    for tokens, image in zip(export.tokens[-4:], export.images[-4:], strict=True):
        order = np.random.default_rng(0).permutation(64)
        classes = patch_classes(cut_patches(image[None], 8, embedder.margin)[0].reshape(64, -1))
        pairs, places = trained.scores(tokens[order])
        matched.append(top_match(pairs.right, order, classes, 8))
        placed.append(float(np.mean(classes[places.argmax(1)] == classes[order])))
    assert np.mean(matched) > 0.2  # chance is 0.016
    assert np.mean(placed) > 0.1


def test_order_of_the_set_changes_nothing(trained: PuzzleNetwork, export: SimulatedExport) -> None:
    order = np.random.default_rng(0).permutation(64)
    pairs, places = trained.scores(export.tokens[0])
    again, places_again = trained.scores(export.tokens[0][order])
    np.testing.assert_allclose(again.right, pairs.right[np.ix_(order, order)], atol=1e-3)
    np.testing.assert_allclose(places_again, places[order], atol=1e-3)


def test_same_seed_trains_alike(export: SimulatedExport) -> None:
    first, second = (train_puzzle_network(export, GRID, steps=3, seed=4).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_canonical_correlations_are_those_that_were_put_in() -> None:
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((20000, 3))
    first = shared + generator.standard_normal((20000, 3)) * [0.1, 1.0, 10.0]
    second = shared @ generator.standard_normal((3, 3))
    one, two, correlation = canonical_correlations(first, second, ridge=0.0)
    np.testing.assert_allclose(correlation, [1 / 1.01**0.5, 0.5**0.5, 1 / 101**0.5], atol=0.02)
    white = (first - first.mean(0)) @ one
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(3), atol=1e-6)
    assert two.shape == (3, 3)


def test_simulation_is_the_export_without_the_shuffle(auxiliary: torch.Tensor) -> None:
    embedding = PatchEmbedding(64, 8, 24, 1, position_scale=0.3)
    simulated = SimulatedExport.of(auxiliary[:3], KnownEmbedder.of(embedding))
    np.testing.assert_allclose(simulated.tokens, embedding(auxiliary[:3]).numpy(), atol=5e-3)
    noisy = SimulatedExport.of(auxiliary[:3], KnownEmbedder.of(embedding), noise=0.5, dtype="int8", copies=2)
    assert noisy.tokens.shape == (6, 64, 24)
    assert np.std(noisy.tokens[0] - simulated.tokens[0]) == pytest.approx(0.5 * simulated.tokens[0].std(), rel=0.1)
