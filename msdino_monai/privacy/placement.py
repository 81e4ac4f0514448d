"""Position codes give the order away: each token fits a code, and what is left is the patch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import PatchPrior

Floats = npt.NDArray[np.float32]


def place_by_prior(
    tokens: Floats, embedder: KnownEmbedder, prior: PatchPrior, variance: float
) -> tuple[Floats | None, Floats]:
    """Log-odds (K, N) of places from the codes alone, and the tokens (K, D) without the codes of their likeliest cells.

    Without codes there are no log-odds, and the tokens are as they were.
    """
    if not embedder.codes.any():
        return None, tokens
    shown, matrix = embedder.visible, embedder.matrix
    inner = prior.covariance[np.ix_(shown, shown)]
    precision = np.linalg.inv(matrix @ inner @ matrix.T + variance * np.eye(len(matrix)))
    centred = tokens.astype(np.float64) - matrix @ prior.mean[shown]
    # -(t - c)' P (t - c) / 2, without what all cells share
    fit = (
        centred @ precision @ embedder.codes.T
        - np.einsum("nd,de,ne->n", *[embedder.codes, precision, embedder.codes]) / 2
    )
    odds = fit - fit.max(1, keepdims=True)
    odds -= np.log(np.exp(odds).sum(1, keepdims=True))
    odds = np.clip(odds + np.log(len(embedder.codes)), -20, None)
    _, cells = linear_sum_assignment(odds, maximize=True)
    bare = tokens - embedder.codes[cells].astype(np.float32)
    return odds.astype(np.float32), bare
