"""Why no secret map is offered: one image whose tokens are known reveals an orthogonal map (Procrustes)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.knowledge import Knowledge

Doubles = npt.NDArray[np.float64]

KNOWLEDGE = Knowledge(known_images=True, embedder=False)


def recover_map(patches: Doubles, tokens: Doubles, rounds: int = 60) -> Doubles:
    """The secret map (D, P) from the patches (N, P) of a known image and its shuffled tokens (K, D).

    A map with orthonormal columns keeps lengths and angles, so tokens are paired with patches by their distances to all
    others of the set; then map and pairing are improved in turn, each exactly.
    """
    pairs = _match_by_distances(patches, tokens)
    secret = _procrustes(patches[pairs], tokens)
    for _ in range(rounds):
        nearest = _distances(tokens, patches @ secret.T).argmin(1)
        if np.array_equal(nearest, pairs):
            break
        pairs = nearest
        secret = _procrustes(patches[pairs], tokens)
    return secret


def _match_by_distances(patches: Doubles, tokens: Doubles) -> npt.NDArray[np.int64]:
    """For each token the patch with the most similar length and sorted distances to its fellows."""
    ranks = np.linspace(0, 1, 64)

    def signature(points: Doubles) -> Doubles:
        between = np.sqrt(np.maximum(_distances(points, points), 0))
        columns = [np.linalg.norm(points, axis=1)[:, None], np.quantile(between, ranks, axis=1).T]
        return np.concatenate(columns, axis=1)

    return np.asarray(_distances(signature(tokens), signature(patches)).argmin(1), dtype=np.int64)


def _procrustes(patches: Doubles, tokens: Doubles) -> Doubles:
    """The map with orthonormal columns (D, P) that brings patches closest to tokens."""
    left, _, right = np.linalg.svd(tokens.T @ patches, full_matrices=False)
    return np.asarray(left @ right, dtype=np.float64)


def _distances(one: Doubles, two: Doubles) -> Doubles:
    return np.asarray((one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2 * one @ two.T, dtype=np.float64)
