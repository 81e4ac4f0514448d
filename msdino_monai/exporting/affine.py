"""MONAI's random affine for one picture, at half of its cost."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import RandAffine


class RandAffinePicture(RandAffine):
    """`RandAffine` for pictures (C, H, W) of one size: the same settings, draws and picture, without a trace of how.

    MONAI's own makes, moves and normalises a grid of homogeneous coordinates, and keeps what it takes to undo it.
    """

    def __call__(self, img: torch.Tensor, randomize: bool = True, **_: Any) -> torch.Tensor:
        if randomize:
            self.randomize()
        if not self._do_transform:
            return img
        self.rand_affine_grid(img.shape[1:], randomize=False, lazy=True)
        matrix = self.rand_affine_grid.get_transformation_matrix()
        picture = img.as_tensor() if isinstance(img, MetaTensor) else img
        grid = affine_grid(matrix, *img.shape[1:])
        moved: torch.Tensor = F.grid_sample(
            picture[None], grid, mode=self.mode, padding_mode=self.padding_mode, align_corners=False
        )
        return moved[0]


def affine_grid(matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`F.affine_grid` (1, H, W, 2) of a (3, 3) map of centred rows and columns, in pixels.

    Places are complex numbers, x + iy: then the grid is one sum of a row and a column.
    """
    (y_row, y_column, y), (x_row, x_column, x), _ = matrix.tolist()
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in (height, width))
    across = columns * complex(x_column * 2 / width, y_column * 2 / height)
    down = rows * complex(x_row * 2 / width, y_row * 2 / height) + complex(x * 2 / width, y * 2 / height)
    return torch.view_as_real(down[:, None] + across)[None]  # (H, 1) + (W,) -> (1, H, W, 2)
