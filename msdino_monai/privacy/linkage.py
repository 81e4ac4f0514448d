"""Linkage: which export holds the image I have, or another image of this patient?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.privacy.knowledge import Knowledge

Floats = npt.NDArray[np.float32]

PICTURE = Knowledge(known_images=True)


def match_multisets(queries: Floats, gallery: Floats) -> Floats:
    """Similarity (Q, G) of token sets (Q, K, D) and (G, L, D): mean distance to the nearest token, both ways, negated.

    Order plays no part, so no shuffle helps. A distance counts by its logarithm: a few tokens that agree exactly are
    stronger evidence than many that agree roughly.
    """
    one, two = (torch.from_numpy(np.ascontiguousarray(sets, dtype=np.float32)) for sets in (queries, gallery))
    floor = 1e-2 * float(two.std()) * two.shape[-1] ** 0.5
    found = torch.empty(len(one), len(two))
    for row, query in enumerate(one):
        distances = torch.cdist(query[None].expand(len(two), -1, -1), two)  # (G, K, L)
        nearest = torch.cat([distances.amin(2), distances.amin(1)], 1)
        found[row] = -(nearest + floor).log().mean(1)
    return found.numpy()


def pool_tokens(tokens: Floats) -> Floats:
    """Token sets (B, K, D) to features (B, 4 D) that no shuffle changes: mean, spread, first and last decile."""
    tails = np.quantile(tokens, [0.1, 0.9], axis=1)
    return np.concatenate([tokens.mean(1), tokens.std(1), *tails], axis=1).astype(np.float32)


def match_pooled(queries: Floats, gallery: Floats) -> Floats:
    """Similarity (Q, G) of pooled features: cosine, after the gallery's own mean and spread are taken off."""
    one, two = pool_tokens(queries), pool_tokens(gallery)
    centre, spread = two.mean(0), two.std(0) + 1e-6
    one, two = (one - centre) / spread, (two - centre) / spread
    one, two = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-9) for each in (one, two))
    return np.asarray(one @ two.T, dtype=np.float32)


def learn_metric(features: Floats, shrinkage: float = 0.1) -> npt.NDArray[np.float64]:
    """A map (F, F) under which what augmentation changes weighs little, from copies (A, C, F) of auxiliary images."""
    within = features - features.mean(1, keepdims=True)
    scale = within.reshape(-1, features.shape[-1]).std(0).astype(np.float64) + 1e-6
    rows = within.reshape(-1, features.shape[-1]) / scale
    covariance = rows.T @ rows / max(1, len(rows) - len(features))
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * np.eye(len(covariance)))
    return np.asarray(vectors / np.sqrt(values) / scale[:, None], dtype=np.float64)


def match_features(queries: Floats, gallery: Floats, metric: npt.NDArray[np.float64]) -> Floats:
    """Similarity (Q, G) of features (., F) under a learnt metric: cosine about the gallery's mean."""
    centre = gallery.mean(0)
    one, two = ((each - centre) @ metric for each in (queries, gallery))
    one, two = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-9) for each in (one, two))
    return np.asarray(one @ two.T, dtype=np.float32)
