"""Slices of any size on the network's square and back, depth untouched."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep

_MODES = ("linear", "nearest")
_SLICES_AT_ONCE = 32  # what lies in memory twice while slices are resized


class FitPlaned(MapTransform, InvertibleTransform):
    """Resizes the slices of (C, H, W, S) without distortion into a square, padded with zeros; `Invertd` undoes it.

    On the way back values are interpolated, whatever `mode` was: give probabilities, not classes.

    Args:
        keys: volumes with an affine.
        image_size: side of the square.
        mode: "linear" (averaging where slices shrink) or "nearest" for masks, one for all keys or one for each.
    """

    def __init__(self, keys: KeysCollection, image_size: int, mode: str | Sequence[str] = "linear") -> None:
        super().__init__(keys)
        self.image_size = image_size
        self.mode: tuple[str, ...] = ensure_tuple_rep(mode, len(self.keys))
        if any(each not in _MODES for each in self.mode):
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        fitted = dict(data)
        for key, mode in self.key_iterator(fitted, self.mode):
            fitted[key] = self._fit(fitted[key], mode)
        return fitted

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        back = dict(data)
        for key in self.key_iterator(back):
            info = self.pop_transform(back[key])
            size, place = info[TraceKeys.EXTRA_INFO]["size"], info[TraceKeys.EXTRA_INFO]["place"]
            above, left, height, width = (int(each) for each in place)
            inside = back[key].as_tensor()[:, above : above + height, left : left + width]
            restored = _resize_slices(inside, (int(size[0]), int(size[1])), "bilinear")
            back[key] = _placed(restored, back[key], info[TraceKeys.EXTRA_INFO]["affine"])
        return back

    def _fit(self, volume: MetaTensor, mode: str) -> MetaTensor:
        affine = torch.as_tensor(volume.affine, dtype=torch.float64)
        size = (int(volume.shape[1]), int(volume.shape[2]))
        target = fitted_size(size, np.linalg.norm(affine[:3, :2].numpy(), axis=0), self.image_size)
        shrinks = target[0] <= size[0] and target[1] <= size[1]
        way = "nearest-exact" if mode == "nearest" else "area" if shrinks else "bilinear"
        resized = _resize_slices(volume.as_tensor(), target, way)
        above, left = ((self.image_size - length) // 2 for length in target)
        below, right = self.image_size - target[0] - above, self.image_size - target[1] - left
        square = F.pad(resized, (0, 0, left, right, above, below))  # (C, h, w, S) -> (C, image_size, image_size, S)
        moved = affine @ _placement(size, target, (above, left))
        extra = {"size": list(size), "place": [above, left, *target], "affine": affine.tolist()}
        result: MetaTensor = self.push_transform(_placed(square, volume, moved), orig_size=size, extra_info=extra)
        return result


def fitted_size(size: tuple[int, int], spacing: Sequence[float], image_size: int) -> tuple[int, int]:
    """How large slices of `size` are in the square: as wide or as high as it, and of the body's proportions."""
    height, width = size[0] * spacing[0], size[1] * spacing[1]
    scale = image_size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _placement(size: tuple[int, int], target: tuple[int, int], offset: tuple[int, int]) -> torch.Tensor:
    """From indices in the square to indices in the slice; the edges of both pictures coincide."""
    matrix = torch.eye(4, dtype=torch.float64)
    for axis in range(2):
        step = size[axis] / target[axis]
        matrix[axis, axis] = step
        matrix[axis, 3] = (0.5 - offset[axis]) * step - 0.5
    return matrix


def _placed(values: torch.Tensor, like: MetaTensor, affine: Any) -> MetaTensor:
    """Values with another's meta data and a place of their own."""
    placed = MetaTensor(values, meta=dict(like.meta), applied_operations=list(like.applied_operations))
    placed.affine = torch.as_tensor(affine, dtype=torch.float64)
    return placed


def _resize_slices(values: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """(C, H, W, S) to (C, *size, S), some slices at a time."""
    aligned: dict[str, Any] = {"align_corners": False} if mode == "bilinear" else {}
    resized = values.new_empty((values.shape[0], *size, values.shape[-1]))
    for start in range(0, values.shape[-1], _SLICES_AT_ONCE):
        some = values[..., start : start + _SLICES_AT_ONCE].movedim(-1, 0)  # (C, H, W, s) -> (s, C, H, W)
        resized[..., start : start + _SLICES_AT_ONCE] = F.interpolate(
            some.float(), size=size, mode=mode, **aligned
        ).movedim(0, -1)
    return resized
