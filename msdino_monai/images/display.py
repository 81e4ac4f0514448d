"""From stored values to what a viewer would show: window, orientation, size, contrast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from msdino_monai.errors import RadiographError
from msdino_monai.images.radiograph import Orientation

_ROUNDING = 1e-5  # what resizing may add to a constant image, relative to its value

WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def apply_window(values: torch.Tensor, center: float, width: float, function: str = "LINEAR") -> torch.Tensor:
    """Apply a DICOM window (PS3.3 C.11.2.1.2) in place, up to a linear scale, which `stretch` settles anyway."""
    if function == "SIGMOID":
        return values.sub_(center).mul_(4.0 / width).sigmoid_()
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1.0, 1e-6)
    return values.clamp_(center - width / 2, center + width / 2)


def hang(row_direction: str, column_direction: str) -> Orientation:
    """The turn that brings the patient's left to the right of the picture and the feet to its bottom.

    The letters are DICOM's Patient Orientation: where columns lead to, and where rows lead to.
    """
    first, second = row_direction[:1].upper(), column_direction[:1].upper()
    if {first, second} - set("LRAPHF") or "" in (first, second):
        return Orientation()  # paws, or nothing: leave it as it is
    transpose = first in "HF" or (first in "AP" and second in "LR")
    if transpose:
        first, second = second, first
    return Orientation(transpose, flip_rows=second in "HA", flip_columns=first in "RA")


def fit(pixels: torch.Tensor, size: tuple[int, int], aspect: float = 1.0) -> torch.Tensor:
    """Resize (H, W) into `size` without distortion; `aspect` is row spacing over column spacing."""
    height, width = pixels.shape[0] * aspect, float(pixels.shape[1])
    scale = min(size[0] / height, size[1] / width)
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    shrinks = target[0] <= pixels.shape[0] and target[1] <= pixels.shape[1]
    mode: dict[str, Any] = {"mode": "area"} if shrinks else {"mode": "bilinear", "align_corners": False}
    resized: torch.Tensor = F.interpolate(pixels[None, None], size=target, **mode)  # (H, W) -> (1, 1, h, w)
    return resized.squeeze((0, 1))


def stretch(pixels: torch.Tensor, lower: float = 0.005, upper: float = 0.995) -> torch.Tensor:
    """Spread the values between two quantiles over [0, 1]."""
    ranks = [round(share * (pixels.numel() - 1)) for share in (lower, upper)]
    low, high = map(float, np.partition(pixels.numpy(), ranks, axis=None)[ranks])  # ten times as fast as torch.quantile
    if not high - low > _ROUNDING * abs(high):
        low, high = float(pixels.min()), float(pixels.max())  # a few bright pixels on black still are a picture
    if not high - low > _ROUNDING * abs(high):
        raise RadiographError("contrast", "all pixels have the same value", "send an exposed image")
    return ((pixels - low) / (high - low)).clamp(0.0, 1.0)


def pad(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Centre (h, w) on a black canvas of `size`."""
    rows, columns = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    return F.pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
