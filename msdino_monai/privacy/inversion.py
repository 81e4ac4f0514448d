"""Linear inversion: single patches out of tokens, exactly or as likely as can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.knowledge import Knowledge

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_LENGTH = 12.0  # pixels over which grey values of any picture agree
_NUGGET = 1e-5  # variance of what does not agree at all, relative to the whole


@dataclass(frozen=True)
class PatchPrior:
    """A Gaussian over whole patches (p * p,), grey values in [-1, 1]."""

    mean: Doubles
    covariance: Doubles
    knowledge: Knowledge = field(default_factory=Knowledge)

    @classmethod
    def smooth(cls, patch_size: int) -> PatchPrior:
        """What is known of any picture: pixels close by are alike (a Matern covariance)."""
        at = np.stack(list(np.mgrid[:patch_size, :patch_size]), -1).reshape(-1, 2)
        distance = np.sqrt(3 * ((at[:, None] - at[None]) ** 2).sum(-1)) / _LENGTH
        covariance = (1 + distance) * np.exp(-distance) + _NUGGET * np.eye(len(at))
        return cls(np.zeros(len(at)), covariance)

    @classmethod
    def fit(cls, images: Floats, patch_size: int) -> PatchPrior:
        """From auxiliary images (B, H, W) in [0, 1]."""
        patches = 2 * cut_patches(images, patch_size).reshape(-1, patch_size**2).astype(np.float64) - 1
        covariance = np.cov(patches, rowvar=False) + _NUGGET * np.eye(patch_size**2)
        return cls(patches.mean(0), covariance, Knowledge(auxiliary_images=True))


def invert(tokens: npt.NDArray[np.floating[Any]], embedder: KnownEmbedder) -> Floats:
    """Visible pixels (..., w, w) in [0, 1] by pseudo-inverse: exact if D is at least w * w."""
    values = tokens @ np.linalg.pinv(embedder.matrix).T
    return _picture(values, embedder.width)


def invert_with_prior(
    tokens: npt.NDArray[np.floating[Any]],
    embedder: KnownEmbedder,
    prior: PatchPrior,
    noise_variance: float = 1e-6,
    *,
    whole: bool = False,
) -> Floats:
    """The most likely visible pixels (..., w, w), or with `whole` the patches (..., p, p), their margins guessed.

    Args:
        tokens: (..., D), position codes taken off.
        noise_variance: of a token's components: what noise, int8 or float16 added.
    """
    shown = embedder.visible
    matrix = embedder.matrix
    inner = prior.covariance[np.ix_(shown, shown)]
    spread = matrix @ inner @ matrix.T + noise_variance * np.eye(len(matrix))
    wanted = prior.covariance[:, shown] if whole else inner
    gain = np.linalg.solve(spread, matrix @ wanted.T).T  # (pixels, D)
    values = (tokens - matrix @ prior.mean[shown]) @ gain.T + (prior.mean if whole else prior.mean[shown])
    return _picture(values, embedder.patch_size if whole else embedder.width)


def noise_variance(tokens: npt.NDArray[np.floating[Any]], noise: float, dtype: str) -> float:
    """Of a token's components, from the options a manifest names and the tokens (V, K, D) themselves."""
    variance = float(np.var(tokens)) * noise**2 / (1 + noise**2)
    if dtype == "int8":
        return variance + float(np.abs(tokens).max() / 127) ** 2 / 12 + 1e-7
    return variance + 1e-7


def cut_patches(images: Floats, patch_size: int, margin: int = 0) -> Floats:
    """Images (B, H, W) to the visible part of their patches (B, N, w, w), row by row."""
    batch, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    cut = images.reshape(batch, rows, patch_size, columns, patch_size).swapaxes(2, 3)
    cut = cut.reshape(batch, rows * columns, patch_size, patch_size)
    inner = slice(margin, patch_size - margin)
    return np.asarray(cut[..., inner, inner], dtype=np.float32)


def join_patches(patches: Floats, cells: npt.NDArray[np.int64], grid: tuple[int, int]) -> Floats:
    """Patches (K, p, p) laid into their cells: one picture (H, W); cells without a patch are black."""
    side = patches.shape[-1]
    board = np.zeros((grid[0] * grid[1], side, side), dtype=np.float32)
    board[cells] = patches
    return np.ascontiguousarray(board.reshape(*grid, side, side).swapaxes(1, 2)).reshape(grid[0] * side, -1)


def _picture(values: Doubles, side: int) -> Floats:
    picture = ((values + 1) / 2).clip(0, 1).reshape(*values.shape[:-1], side, side)
    return np.asarray(picture, dtype=np.float32)
