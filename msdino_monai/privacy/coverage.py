"""How far several views can be joined at all: a bound on every attack that goes by what two views both show.

Patches of one view do not touch: a margin lies between them. They can be joined only over patches of other views that
overlap them, link by link. Whoever recognised every overlap, however small, could join no more than these chains do.
What continues over an edge without being shown twice is not counted; the jigsaw by edges is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.transforms import Compose
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from msdino_monai.exporting.affine import RandAffinePicture

Doubles = npt.NDArray[np.float64]


def draw_maps(augment: Any, count: int, img_size: int, seed: int = 0) -> list[Doubles]:
    """So many maps (3, 3), from pixels of a view to those of the image, as the export's augmentation draws them."""
    parts = augment.transforms if isinstance(augment, Compose) else [augment]
    affine = deepcopy(next((part for part in parts if isinstance(part, RandAffinePicture)), None))
    if affine is None:
        return [np.eye(3)] * count  # views that lie on each other overlap only in the same patches
    affine.set_random_state(seed=seed)
    maps = []
    for _ in range(count):
        affine.randomize()
        affine.rand_affine_grid((img_size, img_size), randomize=False, lazy=True)
        maps.append(np.asarray(affine.rand_affine_grid.get_transformation_matrix(), dtype=np.float64))
    return maps


def joinable_share(maps: Sequence[Doubles], grid: int, patch_size: int, width: int, least: float = 1.0) -> float:
    """Share of the first view's neighbours that chains of overlaps of at least `least` pixels each way connect.

    Args:
        maps: of each view, see `draw_maps`.
        grid: patches along each side.
        patch_size: distance of their centres.
        width: side of what a patch shows.
    """
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1).reshape(-1, 2)
    middle = (cells - (grid - 1) / 2) * patch_size  # (N, 2), about the image's centre
    centres = np.concatenate([middle @ each[:2, :2].T + each[:2, 2] for each in maps])
    # The box round a turned patch: a little too large, which only helps the attacker.
    reach = np.concatenate([np.tile(np.abs(each[:2, :2]).sum(1) * width / 2, (len(middle), 1)) for each in maps])
    view = np.repeat(np.arange(len(maps)), len(middle))
    overlap = reach[:, None] + reach[None] - np.abs(centres[:, None] - centres[None])  # (V * N, V * N, 2)
    linked = (overlap >= least).all(-1) & (view[:, None] != view[None])
    piece = connected_components(coo_matrix(linked), directed=False)[1][: len(middle)].reshape(grid, grid)
    joined = [piece[:, 1:] == piece[:, :-1], piece[1:] == piece[:-1]]
    return float(np.mean(np.concatenate([each.ravel() for each in joined])))


def bound(augment: Any, views: int, img_size: int, patch_size: int, width: int, least: float = 1.0) -> float:
    """The mean of twenty draws of the views."""
    maps = draw_maps(augment, 20 * views, img_size)
    draws = [maps[first : first + views] for first in range(0, len(maps), views)]
    return float(np.mean([joinable_share(each, img_size // patch_size, patch_size, width, least) for each in draws]))
