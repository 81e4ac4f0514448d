from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from msdino_monai.exporting import Defences
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.assembly import patch_classes, score_assembly
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.gaussian_puzzle import GaussianPuzzle
from msdino_monai.privacy.inversion import PatchPrior, cut_patches
from msdino_monai.privacy.jigsaw import JigsawAttack
from msdino_monai.privacy.simulation import SimulatedExport

EMBEDDER = KnownEmbedder.of(PatchEmbedding(64, 8, 24, 1))


def simulated(auxiliary: torch.Tensor, embedder: KnownEmbedder, noise: float = 0.0) -> SimulatedExport:
    return SimulatedExport.of(auxiliary, embedder, noise=noise)


def test_scores_are_ratios_of_likelihoods(auxiliary: torch.Tensor) -> None:
    """Of two Gaussians, written down once more with scipy."""
    puzzle = GaussianPuzzle.fit(auxiliary[:, 0].numpy(), EMBEDDER, noise=0.5)
    tokens = simulated(auxiliary, EMBEDDER, 0.5).tokens[0][:5]
    itself, right, _ = puzzle.covariance
    variance = float(np.var(tokens)) * 0.25 / 1.25 + 1e-7 + 1e-5 * itself.trace() / len(itself)
    alone = itself + variance * np.eye(len(itself))
    joint = np.block([[alone, right], [right.T, alone]])
    pair = multivariate_normal(np.zeros(len(joint)), joint)
    single = multivariate_normal(np.zeros(len(alone)), alone)
    seen = tokens - puzzle.mean
    ratio = np.array([[pair.logpdf([*a, *b]) - single.logpdf(a) - single.logpdf(b) for b in seen] for a in seen])
    found, _ = puzzle.scores(tokens)
    np.fill_diagonal(ratio, -np.inf)  # nothing is its own neighbour
    rows, columns = (np.log(np.exp(ratio).sum(axis, keepdims=True)) for axis in (1, 0))
    expected = np.maximum(ratio - (rows + columns) / 2 + np.log(len(seen) - 1), -8)
    np.testing.assert_allclose(found.right, expected, atol=0.02)


def test_order_of_the_tokens_changes_nothing(auxiliary: torch.Tensor) -> None:
    puzzle = GaussianPuzzle.fit(auxiliary[:, 0].numpy(), EMBEDDER)
    tokens = simulated(auxiliary, EMBEDDER).tokens[0]
    order = np.random.default_rng(0).permutation(len(tokens))
    (pairs, places), (mixed, mixed_places) = puzzle.scores(tokens), puzzle.scores(tokens[order])
    np.testing.assert_allclose(mixed.down, pairs.down[np.ix_(order, order)], atol=0.01)
    np.testing.assert_allclose(mixed_places, places[order], atol=0.01)


def test_position_codes_tell_every_place(auxiliary: torch.Tensor) -> None:
    coded = KnownEmbedder.of(PatchEmbedding(64, 8, 24, 1, position_scale=0.5))
    puzzle = GaussianPuzzle.fit(auxiliary[:-1, 0].numpy(), coded)
    _, places = puzzle.scores(simulated(auxiliary[-1:], coded).tokens[0])
    assert (places.argmax(1) == np.arange(len(places))).mean() > 0.9


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Synthetic chests (B, 128, 128), one a patient at first."""
    root = tmp_path_factory.mktemp("chests")
    write_cohort(str(root), sites=1, patients_per_site=60, seed=3, image_size=128)
    first = {path.name.split("_")[0]: path for path in sorted((root / "site_a" / "images").iterdir(), reverse=True)}
    load = LoadRadiograph(128)
    return np.stack([load(Path(path)).as_tensor().numpy()[0] for path in first.values()])


def neighbours(attack: JigsawAttack, embedder: KnownEmbedder, pictures: np.ndarray) -> float:
    found = []
    for picture in pictures:
        tokens = SimulatedExport.of(torch.from_numpy(picture)[None, None], embedder).tokens
        draw = np.random.Generator(np.random.PCG64(0)).bytes
        shuffled, orders = Defences(noise=attack.noise, randomness=draw).apply(tokens)
        kinds = patch_classes(cut_patches(picture[None], embedder.patch_size, embedder.margin)[0].reshape(64, -1))
        found.append(score_assembly(attack(shuffled).cells, orders[0], kinds, embedder.grid).neighbours)
    return float(np.nanmean(found))


def test_noise_alone_does_not_hide_small_images(chests: np.ndarray) -> None:
    """64 patches with noise 0.3 and 64 dimensions: more than the threshold comes back, and less of a margin of 4."""
    shares = {}
    for noise, margin in ((0.3, 0), (0.0, 4)):
        embedder = KnownEmbedder.of(PatchEmbedding(128, 16, 64, margin))
        puzzle = GaussianPuzzle.fit(chests[4:], embedder, noise=noise)
        prior = PatchPrior.fit(chests[4:], 16)
        attack = JigsawAttack(embedder, noise=noise, prior=prior, scorer=puzzle, with_edges=False).alone()
        shares[noise] = neighbours(attack, embedder, chests[:4])
    assert shares[0.3] > 0.2
    assert shares[0.0] < shares[0.3]
