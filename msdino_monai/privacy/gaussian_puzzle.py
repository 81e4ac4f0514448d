"""A jigsaw attacker in closed form: which tokens are neighbours, and where they lie, if tokens and noise were Gaussian.

It needs few pictures and no training, and noise, whose strength the manifest names, does not confuse it: what is fitted
are tokens without noise, and the noise is added to their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches, noise_variance
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.solver import PairScores

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_UNSURE = 1e-5  # of a token's variance: no covariance of some hundred pictures is known better
_PLACE_TRUST = 0.3  # tokens next to each other err together about their places
_LEAST = -8.0  # log-odds of a place, below which it does not matter how unlikely


@dataclass(frozen=True)
class GaussianPuzzle:
    """Fitted to auxiliary images; scores like a `PuzzleNetwork`.

    Args:
        mean: of a token (D,).
        covariance: of a token with itself, its right neighbour and the one below, (D, D) each.
        places: mean token (N, D) of every cell.
        around: covariance (D, D) of tokens around the mean of their cell.
        noise, dtype: the options the manifest names.
    """

    mean: Doubles
    covariance: tuple[Doubles, Doubles, Doubles]
    places: Doubles
    around: Doubles
    noise: float
    dtype: str

    knowledge = Knowledge(auxiliary_images=True)

    @classmethod
    def fit(
        cls, images: Floats, embedder: KnownEmbedder, *, noise: float = 0.0, dtype: str = "float16"
    ) -> GaussianPuzzle:
        """From images (B, H, W) in [0, 1], augmented as the export's are."""
        patches = cut_patches(images, embedder.patch_size, embedder.margin).reshape(
            len(images), len(embedder.codes), -1
        )
        tokens = (2 * patches.astype(np.float64) - 1) @ embedder.matrix.T + embedder.codes  # (B, N, D)
        mean, places = tokens.mean((0, 1)), tokens.mean(0)
        board = (tokens - mean).reshape(-1, *embedder.grid, tokens.shape[-1])
        covariance = (
            _product(board, board),
            _product(board[:, :, :-1], board[:, :, 1:]),
            _product(board[:, :-1], board[:, 1:]),
        )
        return cls(mean, covariance, places, _product(tokens - places, tokens - places), noise, dtype)

    def scores(self, tokens: Floats) -> tuple[PairScores, Floats]:
        """Pair scores, and log-odds (K, N) of places, for one set (K, D)."""
        itself, right, down = self.covariance
        variance = noise_variance(tokens[None], self.noise, self.dtype) + _UNSURE * itself.trace() / len(itself)
        noise = variance * np.eye(len(itself))
        centred = tokens.astype(np.float64) - self.mean
        pairs = PairScores(*(_odds_of_pairs(centred, itself + noise, with_next) for with_next in (right, down)))
        return pairs.competing(), self._odds_of_places(centred, np.linalg.inv(self.around + noise))

    def _odds_of_places(self, centred: Doubles, precision: Doubles) -> Floats:
        cells = self.places - self.mean
        distance = -2 * centred @ precision @ cells.T + np.einsum("nd,de,ne->n", cells, precision, cells)
        odds = -0.5 * (distance - distance.min(1, keepdims=True))
        odds += np.log(len(cells)) - np.log(np.exp(odds).sum(1, keepdims=True))
        return np.asarray(_PLACE_TRUST * odds.clip(_LEAST), dtype=np.float32)


def _product(first: Doubles, second: Doubles) -> Doubles:
    """Mean outer product (D, D) of two lots of tokens (..., D)."""
    dims = first.shape[-1]
    found: Doubles = first.reshape(-1, dims).T @ second.reshape(-1, dims) / (first.size / dims)
    return found


def _odds_of_pairs(tokens: Doubles, itself: Doubles, with_next: Doubles) -> Floats:
    """Log-odds (K, K), but for a constant, that two tokens are neighbours and not strangers."""
    dims = len(itself)
    both = np.block([[itself, with_next], [with_next.T, itself]])
    change = np.linalg.inv(both) - np.kron(np.eye(2), np.linalg.inv(itself))
    first, cross, second = change[:dims, :dims], change[:dims, dims:], change[dims:, dims:]

    def squares(matrix: Doubles) -> Doubles:
        found: Doubles = np.einsum("kd,kd->k", tokens @ matrix, tokens)
        return found

    odds = -0.5 * (squares(first)[:, None] + squares(second)[None] + 2 * tokens @ cross @ tokens.T)
    return np.asarray(odds, dtype=np.float32)
