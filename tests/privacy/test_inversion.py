from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.embedder import KnownEmbedder, rebuild
from msdino_monai.privacy.inversion import (
    PatchPrior,
    cut_patches,
    invert,
    invert_with_prior,
    join_patches,
    noise_variance,
)


def embedded(pictures: np.ndarray, dims: int, margin: int) -> tuple[KnownEmbedder, np.ndarray, np.ndarray]:
    """The embedder, the tokens (B, N, D) and the visible pixels (B, N, w, w)."""
    embedder = KnownEmbedder.of(PatchEmbedding(224, 16, dims, margin))
    visible = cut_patches(pictures, 16, margin)
    return embedder, (2 * visible.reshape(*visible.shape[:2], -1) - 1) @ embedder.matrix.T, visible


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2)))


@pytest.mark.parametrize(("dims", "margin"), [(384, 0), (256, 0), (144, 2)])
def test_as_many_dimensions_as_pixels_invert_exactly(pictures: np.ndarray, dims: int, margin: int) -> None:
    embedder, tokens, visible = embedded(pictures, dims, margin)
    assert error(invert(tokens, embedder), visible) < 1e-3


@pytest.mark.parametrize(("dims", "margin"), [(128, 2), (64, 0)])
def test_any_prior_beats_the_pseudo_inverse_and_auxiliary_images_help(
    pictures: np.ndarray, dims: int, margin: int
) -> None:
    embedder, tokens, visible = embedded(pictures[:1], dims, margin)
    plain = error(invert(tokens, embedder), visible)
    smooth = error(invert_with_prior(tokens, embedder, PatchPrior.smooth(16)), visible)
    fitted = error(invert_with_prior(tokens, embedder, PatchPrior.fit(pictures[1:], 16)), visible)
    assert plain > 3 * smooth
    assert fitted < 1.5 * smooth
    assert smooth < 0.05  # a twentieth of black to white: fewer dimensions hide little


def test_margins_are_guessed(pictures: np.ndarray) -> None:
    embedder, tokens, _ = embedded(pictures, 144, 2)
    whole = invert_with_prior(tokens, embedder, PatchPrior.smooth(16), whole=True)
    truth = cut_patches(pictures, 16)
    ring = ~embedder.visible.reshape(16, 16)
    assert error(whole[..., ring], truth[..., ring]) < 0.5 * error(truth.mean(), truth[..., ring])


def test_noise_is_averaged_out_by_the_prior(pictures: np.ndarray) -> None:
    embedder, tokens, visible = embedded(pictures, 256, 0)
    noisy = tokens + 0.2 * tokens.std() * np.random.default_rng(0).standard_normal(tokens.shape)
    variance = noise_variance(noisy, 0.2, "float16")
    assert variance == pytest.approx((0.2 * tokens.std()) ** 2, rel=0.05)
    assert error(invert_with_prior(noisy, embedder, PatchPrior.smooth(16), variance), visible) < 0.6 * error(
        invert(noisy, embedder), visible
    )


def test_eight_bits_leave_known_noise() -> None:
    tokens = np.random.default_rng(0).uniform(-1, 1, (1, 500, 40))
    step = np.abs(tokens).max() / 127
    rounded = np.rint(tokens / step) * step
    assert noise_variance(tokens, 0.0, "int8") == pytest.approx(np.var(rounded - tokens), rel=0.05)


def test_patches_join_to_the_picture_they_were_cut_from(pictures: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(196)
    patches = cut_patches(pictures[:1], 16)[0]
    np.testing.assert_array_equal(join_patches(patches[order], order, (14, 14)), pictures[0])


def test_embedder_is_rebuilt_from_its_description() -> None:
    embedding = PatchEmbedding(64, 16, 32, 2, seed=5, position_scale=0.5)
    known = rebuild(embedding.describe())
    np.testing.assert_allclose(known.matrix, KnownEmbedder.of(embedding).matrix)
    assert known.codes.std() > 0.3
    assert known.grid == (4, 4)
    assert known.visible.sum() == known.width**2 == 144


def test_other_embedders_are_refused() -> None:
    description = PatchEmbedding(64, 16, 32).describe()
    with pytest.raises(Exception, match="another hash"):
        rebuild({**description, "sha256": "0" * 64})
    del description["seed"]
    with pytest.raises(Exception, match="give embedder_checkpoint"):
        rebuild({**description, "checkpoint": "ViT"})
