"""How far several views can be joined: an estimate of attacks that we have not written, from the augmentation alone.

Patches of one view do not touch: a margin lies between them. They can be joined over patches of other views that
overlap them, or abut so closely that edges continue, link by link. Whoever recognised every link could join the chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from monai import transforms
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from msdino_monai.exporting.affine import RandAffinePicture

Doubles = npt.NDArray[np.float64]

GAP = 2.0  # pixels; over as many, at margin 1, our jigsaw of one view finds most neighbours
# They move no pixel.
_OF_GREYS = (transforms.RandAdjustContrast, transforms.RandScaleIntensity, transforms.RandShiftIntensity)
_STILL = (transforms.Identity, transforms.RandGaussianSmooth, transforms.RandGaussianNoise, *_OF_GREYS)


class UnknownMotionError(ValueError):
    """Views are moved in a way that is not followed here."""


def draw_maps(augment: Any, count: int, img_size: int, seed: int = 0) -> list[Doubles]:
    """So many maps (3, 3), from pixels of a view to those of the image, as the export's augmentation draws them."""
    parts = list(_flat(augment))
    affines = [part for part in parts if isinstance(part, RandAffinePicture)]
    if len(affines) > 1 or not all(isinstance(part, (RandAffinePicture, *_STILL)) for part in parts):
        raise UnknownMotionError
    if not affines:
        return [np.eye(3)] * count  # views that lie on each other overlap only in the same patches
    affine = deepcopy(affines[0])
    affine.set_random_state(seed=seed)
    maps = []
    for _ in range(count):
        affine.randomize()
        if not affine._do_transform:
            maps.append(np.eye(3))
            continue
        affine.rand_affine_grid((img_size, img_size), randomize=False, lazy=True)
        maps.append(np.asarray(affine.rand_affine_grid.get_transformation_matrix(), dtype=np.float64))
    return maps


def _flat(augment: Any) -> Iterator[Any]:
    if isinstance(augment, transforms.Compose):
        for part in augment.transforms:
            yield from _flat(part)
    elif augment is not None:
        yield augment


def joinable_share(
    maps: Sequence[Doubles], grid: int, patch_size: int, width: int, least: float = 1.0, gap: float | None = None
) -> float:
    """Share of the first view's neighbours that chains of links between patches of different views connect.

    Args:
        maps: of each view, see `draw_maps`.
        grid: patches along each side.
        patch_size: distance of their centres.
        width: side of what a patch shows.
        least: pixels, each way, of an overlap that is a link.
        gap: pixels between two patches that abut along half a side and are a link all the same; None for no such links.
    """
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1).reshape(-1, 2)
    middle = (cells - (grid - 1) / 2) * patch_size  # (N, 2), about the image's centre
    centres = np.concatenate([middle @ each[:2, :2].T + each[:2, 2] for each in maps])
    # The box round a turned patch: a little too large, which only helps the attacker.
    reach = np.concatenate([np.tile(np.abs(each[:2, :2]).sum(1) * width / 2, (len(middle), 1)) for each in maps])
    view = np.repeat(np.arange(len(maps)), len(middle))
    overlap = reach[:, None] + reach[None] - np.abs(centres[:, None] - centres[None])  # (V * N, V * N, 2)
    near = (overlap >= least).all(-1)
    if gap is not None:
        near |= (overlap.min(-1) >= -gap) & (overlap.max(-1) >= width / 2)
    linked = near & (view[:, None] != view[None])
    piece = connected_components(coo_matrix(linked), directed=False)[1][: len(middle)].reshape(grid, grid)
    joined = [piece[:, 1:] == piece[:, :-1], piece[1:] == piece[:-1]]
    return float(np.mean(np.concatenate([each.ravel() for each in joined])))


def estimate(
    augment: Any, views: int, img_size: int, patch_size: int, width: int, *, least: float = 1.0, gap: float | None = GAP
) -> float:
    """The mean of twenty draws of the views; everything, where nobody knows how the augmentation moves them."""
    if views == 1:
        return 0.0
    try:
        maps = draw_maps(augment, 20 * views, img_size)
    except UnknownMotionError:
        return 1.0
    draws = [maps[first : first + views] for first in range(0, len(maps), views)]
    shares = [joinable_share(each, img_size // patch_size, patch_size, width, least, gap) for each in draws]
    return float(np.mean(shares))
