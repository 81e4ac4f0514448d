"""Does the file itself tell the order? Whatever the settings, a shuffle that was not drawn afresh is no shuffle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from msdino_monai.errors import UserError
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_MATCHES = 12  # places in common with a fresh shuffle: one is expected, twelve happen once in a billion
_DEVIATIONS = 5.0  # of a rank correlation: once in a million
_SLACK = 1.5  # times the distance of the best pairing, within which the orders that were kept are believed


def find_order(tokens: Floats, view: Floats, embedder: KnownEmbedder, kept: Integers, *, seed: int = 0) -> Integers:
    """The true order (K,) of the tokens (K, D) of a view (H, W), found in the file.

    The orders `kept` by the export are believed only if the file agrees: an export that writes what it did not shuffle
    must not be judged by the shuffle it says it drew.
    """
    patches = cut_patches(view[None], embedder.patch_size, embedder.margin)[0]
    expected = (2 * patches.reshape(len(patches), -1) - 1) @ embedder.matrix.T + embedder.codes
    distances = ((tokens[:, None] - expected[None]) ** 2).mean(-1)  # (K, N)
    generator = np.random.default_rng(seed)
    rows, columns = (generator.permutation(size) for size in distances.shape)  # twins fall anywhere, in no order
    chosen, cells = linear_sum_assignment(distances[np.ix_(rows, columns)])
    order = np.empty(len(tokens), dtype=np.int64)
    order[rows[chosen]] = columns[cells]
    every = np.arange(len(tokens))
    agrees = distances[every, kept].mean() <= _SLACK * distances[every, order].mean() + 1e-4
    return kept if agrees else order


def order_leaks(orders: Integers) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Which images' true orders (B, V, K), as written, are not fresh shuffles; and in what way."""
    images, views, kept = orders.shape
    flat = orders.reshape(-1, kept)
    limit = min(_MATCHES, kept)
    found: Mapping[str, npt.NDArray[np.bool_]] = {
        "tokens lie where they were": (flat == np.arange(kept)).sum(1) >= limit,
        "neighbours follow each other": (np.diff(flat, axis=1) == 1).sum(1) >= limit - 1,
        "tokens lie roughly in order": np.abs(_rank_correlation(flat)) * np.sqrt(kept - 1) > _DEVIATIONS,
        "shuffles repeat": _repeats(flat, limit),
    }
    leaking = np.any(list(found.values()), axis=0).reshape(images, views).any(1)
    return leaking, [name for name, which in found.items() if which.any()]


def rows_follow(names: Sequence[str]) -> bool:
    """Whether images, named in the order in which they lie in the files, lie in the order of their names."""
    ranks = np.argsort(np.argsort(np.array(names)))[None]
    count = len(names)
    correlation = abs(float(_rank_correlation(ranks)[0])) if count > 1 else 0.0
    return count >= 8 and (correlation > 0.999 or correlation * (count - 1) ** 0.5 > _DEVIATIONS)


def _repeats(flat: Integers, limit: int) -> npt.NDArray[np.bool_]:
    """Which orders (R, K) share too many places with another one."""
    shared = np.array([(flat == order).sum(1) for order in flat])  # (R, R)
    np.fill_diagonal(shared, 0)
    return np.asarray((shared >= limit).any(1))


def _rank_correlation(flat: Integers) -> npt.NDArray[np.floating[Any]]:
    """Of each row's (R, K) values with their place."""
    ranks = np.argsort(np.argsort(flat, axis=1), axis=1).astype(np.float64)
    place = np.arange(flat.shape[1], dtype=np.float64)
    ranks, place = ranks - ranks.mean(1, keepdims=True), place - place.mean()
    norm = np.linalg.norm(ranks, axis=1) * np.linalg.norm(place)
    return np.asarray(ranks @ place / np.maximum(norm, 1e-9))


def true_orders(
    tokens: Floats, views: Floats, embedder: KnownEmbedder, kept: Mapping[bytes, Integers], image_ids: Sequence[bytes]
) -> Integers:
    """The orders (B, V, K) of token sets (B, V, K, D), whose pictures are `views` (B, V, H, W)."""
    if missing := [image for image in image_ids if image not in kept]:
        raise UserError(f"the sample's export keeps no order of {len(missing)} images; report this as a bug.")
    return np.array(
        [
            [
                find_order(tokens[image, view], views[image, view], embedder, kept[name][view], seed=image)
                for view in range(tokens.shape[1])
            ]
            for image, name in enumerate(image_ids)
        ]
    )
