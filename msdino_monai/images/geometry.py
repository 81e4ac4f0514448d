"""Between a file's own grid of pixels and the upright, padded grid a network sees, in both directions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import torch
import torch.nn.functional as F
from pydicom.multival import MultiValue

from msdino_monai.images.files import DICOM, NIFTI, kind_of
from msdino_monai.images.nifti import read_nifti
from msdino_monai.images.radiograph import Orientation, Rules

# What DICOM gives in millimetres; the ratio PixelAspectRatio is no distance.
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class Geometry:
    """How `LoadRadiograph` placed one file's pixels: resized without distortion, turned upright, padded."""

    stored_shape: tuple[int, int]
    orientation: Orientation
    aspect: float  # row spacing over column spacing
    img_size: tuple[int, int]

    @classmethod
    def of(cls, meta: Mapping[str, Any], img_size: Sequence[int]) -> Geometry:
        """What `LoadRadiograph` noted in an image's meta, as it comes out of a batch again."""
        rows, columns = (int(length) for length in meta["stored_shape"])
        turn = Orientation(*(bool(part) for part in meta["orientation"]))
        return cls((rows, columns), turn, float(meta["aspect"]), (int(img_size[0]), int(img_size[1])))

    @property
    def fitted_shape(self) -> tuple[int, int]:
        """The picture's size in the network's grid, before it is turned."""
        rows, columns = self.img_size[::-1] if self.orientation.transpose else self.img_size
        height, width = self.stored_shape[0] * self.aspect, float(self.stored_shape[1])
        scale = min(rows / height, columns / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    @property
    def margins(self) -> tuple[int, int]:
        """Black rows above and columns left of the upright picture."""
        height, width = self.fitted_shape[::-1] if self.orientation.transpose else self.fitted_shape
        return (self.img_size[0] - height) // 2, (self.img_size[1] - width) // 2


def to_network_grid(mask: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A mask (C, H, W) on the stored grid where the network sees its image, (C, *img_size); beside it all is 0."""
    if tuple(mask.shape[-2:]) != geometry.stored_shape:
        raise ValueError(f"mask must be of size {geometry.stored_shape}, got {tuple(mask.shape[-2:])}.")
    fitted = F.interpolate(mask[None].float(), size=geometry.fitted_shape, mode="nearest-exact")[0].to(mask.dtype)
    upright = geometry.orientation.apply(fitted)
    above, left = geometry.margins
    below = geometry.img_size[0] - upright.shape[-2] - above
    right = geometry.img_size[1] - upright.shape[-1] - left
    return F.pad(upright, (left, right, above, below)).contiguous()


def to_stored_grid(values: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Probabilities (C, *img_size) back on the stored grid, (C, H, W).

    Give probabilities, not classes: interpolated before the decision they draw smooth edges, after it stairs.
    """
    if tuple(values.shape[-2:]) != geometry.img_size:
        raise ValueError(f"values must be of size {geometry.img_size}, got {tuple(values.shape[-2:])}.")
    turn = geometry.orientation
    height, width = geometry.fitted_shape[::-1] if turn.transpose else geometry.fitted_shape
    above, left = geometry.margins
    upright = values[..., above : above + height, left : left + width]
    flips = [dim for dim, flip in ((-2, turn.flip_rows), (-1, turn.flip_columns)) if flip]
    fitted = upright.flip(flips) if flips else upright
    fitted = fitted.transpose(-2, -1) if turn.transpose else fitted
    return F.interpolate(fitted[None], size=geometry.stored_shape, mode="bilinear", align_corners=False)[0]


def spacing_in_mm(path: str | Path) -> tuple[float, float] | None:
    """Millimetres between rows and between columns of the stored grid, where the file says so.

    For a DICOM radiograph this is mostly the spacing at the detector: the body, closer to the tube, is smaller.
    """
    kind = kind_of(path)
    if kind == NIFTI:
        spacing = read_nifti(path, Rules(allow_first_frame=True)).spacing
    else:
        spacing = _dicom_spacing(path) if kind == DICOM else None
    return spacing if spacing is not None and all(1e-3 < step < 1e3 for step in spacing) else None


def _dicom_spacing(path: str | Path) -> tuple[float, float] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of headers that a reader need not mind
        dataset = pydicom.dcmread(path, specific_tags=list(_SPACINGS), stop_before_pixels=True)
    for keyword in _SPACINGS:
        values = dataset.get(keyword)
        if isinstance(values, MultiValue) and len(values) == 2 and all(value is not None for value in values):
            rows, columns = map(float, values)
            if rows > 0 and columns > 0:  # some scanners write zeros
                return rows, columns
    return None
