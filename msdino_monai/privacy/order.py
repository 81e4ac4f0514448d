"""Where each token of a sample truly lies: what an attack is judged by, found in the files themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from msdino_monai.errors import UserError
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_SLACK = 1.5  # times the distance of the best pairing, within which the orders that were kept are believed


def expected_tokens(view: Floats, embedder: KnownEmbedder) -> Doubles:
    """What the embedding makes of a view (H, W): tokens (N, D) in their true order."""
    patches = cut_patches(view[None], embedder.patch_size, embedder.margin)[0]
    return np.asarray((2 * patches.reshape(len(patches), -1) - 1) @ embedder.matrix.T + embedder.codes)


def find_order(tokens: Floats, view: Floats, embedder: KnownEmbedder, kept: Integers, *, seed: int = 0) -> Integers:
    """The true order (K,) of the tokens (K, D) of a view (H, W), found in the file.

    The orders `kept` by the export are believed only if the file agrees: an export that writes what it did not shuffle
    must not be judged by the shuffle it says it drew.
    """
    expected = expected_tokens(view, embedder)
    distances = ((tokens[:, None] - expected[None]) ** 2).mean(-1)  # (K, N)
    generator = np.random.default_rng(seed)
    rows, columns = (generator.permutation(size) for size in distances.shape)  # twins fall anywhere, in no order
    chosen, cells = linear_sum_assignment(distances[np.ix_(rows, columns)])
    order = np.empty(len(tokens), dtype=np.int64)
    order[rows[chosen]] = columns[cells]
    every = np.arange(len(tokens))
    agrees = distances[every, kept].mean() <= _SLACK * distances[every, order].mean() + 1e-4
    return kept if agrees else order


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
