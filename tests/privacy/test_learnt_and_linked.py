"""Attackers that need no jigsaw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.attribute import infer_attribute
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches
from msdino_monai.privacy.known_image import recover_map
from msdino_monai.privacy.linkage import match_multisets, match_pooled
from msdino_monai.privacy.membership import agreement_scores
from msdino_monai.privacy.ranking import score_linkage, score_membership
from msdino_monai.privacy.set_inverter import train_set_inverter
from msdino_monai.privacy.similarity import compare_pictures
from msdino_monai.privacy.simulation import SimulatedExport

EMBEDDER = KnownEmbedder.of(PatchEmbedding(64, 8, 24, 1))


@pytest.fixture(scope="module")
def export(auxiliary: torch.Tensor) -> SimulatedExport:
    return SimulatedExport.of(auxiliary, EMBEDDER)


def shuffled(tokens: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([each[generator.permutation(len(each))] for each in tokens])


def test_learnt_inverter_paints_an_unseen_chest_without_a_jigsaw(export: SimulatedExport) -> None:
    seen = SimulatedExport(export.tokens[:-4], export.images[:-4])
    network = train_set_inverter(seen, 8, steps=150)
    mean = seen.images.mean(0)
    errors, guesses = [], []
    for tokens, image in zip(shuffled(export.tokens[-4:], 0), export.images[-4:], strict=True):
        errors.append(np.abs(network.invert(tokens, (8, 8)) - image).mean())
        guesses.append(np.abs(mean - image).mean())
    assert np.mean(errors) < 0.9 * np.mean(guesses)


@pytest.mark.parametrize("match", [match_multisets, match_pooled])
def test_same_image_is_found_whatever_its_order(export: SimulatedExport, match) -> None:
    found = match(shuffled(export.tokens, 1), shuffled(export.tokens, 2))
    score = score_linkage(found, np.eye(len(found), dtype=bool))
    assert score.top_1 == 1
    assert score.auc > 0.99


def test_unrelated_sets_are_linked_by_chance_only() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.standard_normal((2, 40, 16, 8)).astype(np.float32)
    for match in (match_multisets, match_pooled):
        assert 0.4 < score_linkage(match(one, two), np.eye(40, dtype=bool)).auc < 0.6


def test_site_is_read_off_pooled_tokens_and_noise_is_not(export: SimulatedExport) -> None:
    sites = (np.arange(len(export.tokens)) >= len(export.tokens) // 2).astype(np.int64)
    tokens = shuffled(export.tokens, 0) + 0.5 * sites[:, None, None].astype(np.float32)
    assert infer_attribute(tokens, sites).accuracy > 0.9
    coin = np.random.default_rng(0).permutation(sites)
    score = infer_attribute(np.random.default_rng(1).standard_normal(tokens.shape).astype(np.float32), coin)
    assert score.accuracy < 0.8
    assert score.chance == pytest.approx(max(coin.mean(), 1 - coin.mean()))
    with pytest.raises(ValueError, match="at least two classes"):
        infer_attribute(tokens, np.zeros(len(tokens), dtype=np.int64))


def test_body_that_knows_its_members_gives_them_away() -> None:
    """A body that answers with one fixed feature for tokens it has stored, and with their mean for others."""
    generator = np.random.default_rng(0)
    members, others = generator.standard_normal((2, 100, 16, 8)).astype(np.float32)
    stored = torch.from_numpy(members).flatten(0, 1)

    def body(tokens: torch.Tensor) -> torch.Tensor:
        distance, nearest = torch.cdist(tokens[:, 0], stored).min(1)
        known = torch.nn.functional.one_hot(nearest // 16, 100).float()
        return torch.where(distance[:, None] < 1e-3, known, tokens.mean(1).repeat(1, 13)[:, :100])

    scores = agreement_scores(body, np.concatenate([members, others]))
    assert score_membership(scores[:100], scores[100:]).auc > 0.95
    unknowing = agreement_scores(lambda tokens: tokens.mean(1), np.concatenate([members, others]))
    assert 0.4 < score_membership(unknowing[:100], unknowing[100:]).auc < 0.6
    same = agreement_scores(body, members, reference=body)
    np.testing.assert_array_equal(same, 0)


def test_one_known_image_reveals_a_secret_map(pictures: np.ndarray) -> None:
    secret, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))
    patches = 2 * cut_patches(pictures, 16).reshape(len(pictures), 196, 256).astype(np.float64) - 1
    tokens = patches @ secret.T
    order = np.random.default_rng(1).permutation(196)
    found = recover_map(patches[0], tokens[0][order])
    # The map is known wherever the known image has content; other images are opened with it.
    opened = tokens[1] @ found
    assert np.sqrt(np.mean((opened - patches[1]) ** 2)) < 0.1
    wrong = tokens[1] @ np.linalg.qr(np.random.default_rng(2).standard_normal((256, 256)))[0]
    assert np.sqrt(np.mean((wrong - patches[1]) ** 2)) > 0.5


def test_similarity_is_best_for_equal_pictures_and_falls(pictures: np.ndarray) -> None:
    same = compare_pictures(pictures[0], pictures[0])
    assert (same.psnr, same.gmsd) == (100, 0)
    assert same.ssim == pytest.approx(1, abs=1e-5)
    other = compare_pictures(pictures[1], pictures[0])
    noisy = compare_pictures(
        (pictures[0] + 0.01 * np.random.default_rng(0).standard_normal((224, 224))).clip(0, 1), pictures[0]
    )
    assert same.psnr > noisy.psnr > other.psnr
    assert noisy.psnr == pytest.approx(40, abs=1)
    assert same.ssim > noisy.ssim > other.ssim
    assert same.gmsd < noisy.gmsd < other.gmsd
