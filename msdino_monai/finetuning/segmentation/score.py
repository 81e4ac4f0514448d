"""How well one predicted mask agrees with one drawn by hand, and what holds where either is empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import

ndimage, _ = optional_import("scipy.ndimage")

Layer = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """One class of one case; NaN is undefined.

    Where the class is neither there nor predicted, all is undefined and the case is left out of means; where it is
    predicted and not there, or there and not predicted, Dice is 0 and distances are undefined.
    """

    dice: float
    hd95: float
    surface_distance: float  # the symmetric mean
    truth_pixels: int
    predicted_pixels: int
    lesions: int  # connected parts of the truth
    found: int  # those of them the prediction overlaps enough
    false_alarms: int  # connected parts of the prediction that touch no truth


def score(
    predicted: Layer, truth: Layer, spacing: tuple[float, float] | None = None, min_overlap: float = 0.1
) -> Score:
    """Compare two layers (H, W); distances are in `spacing`'s unit, or in pixels.

    Args:
        predicted: where the network sees the class.
        truth: where it is.
        spacing: between rows and between columns.
        min_overlap: the share of a lesion that must be predicted for it to count as found.
    """
    lesions, found = found_lesions(predicted, truth, min_overlap)
    hd95, mean = distances(predicted, truth, spacing or (1.0, 1.0))
    return Score(
        dice=dice(predicted, truth),
        hd95=hd95,
        surface_distance=mean,
        truth_pixels=int(truth.sum()),
        predicted_pixels=int(predicted.sum()),
        lesions=lesions,
        found=found,
        false_alarms=untouched(predicted, truth),
    )


def dice(predicted: Layer, truth: Layer) -> float:
    """Twice the common area over the sum of both; undefined where both are empty."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else math.nan


def distances(predicted: Layer, truth: Layer, spacing: Sequence[float]) -> tuple[float, float]:
    """The 95th percentile of the distances between the outlines, and their mean; undefined where either is empty."""
    if not predicted.any() or not truth.any():
        return math.nan, math.nan
    rows, columns = _around(predicted | truth)
    # One pixel of background on every side, so that an outline along the picture's edge is one.
    outlines = [_outline(np.pad(layer[rows, columns], 1)) for layer in (predicted, truth)]
    ways = [
        ndimage.distance_transform_edt(~there, sampling=tuple(spacing))[here]
        for here, there in (outlines, outlines[::-1])
    ]
    return max(float(np.percentile(way, 95)) for way in ways), float(np.concatenate(ways).mean())


def _outline(layer: Layer) -> Layer:
    """Pixels of the layer with a neighbour, not at a corner, outside it."""
    return np.asarray(layer & ~ndimage.binary_erosion(layer))


def found_lesions(predicted: Layer, truth: Layer, min_overlap: float) -> tuple[int, int]:
    """How many connected parts the truth has, and how many of them are predicted to a share of `min_overlap`."""
    parts, count = _connected(truth)
    if count == 0:
        return 0, 0
    area = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    common = np.bincount(parts[predicted], minlength=count + 1)[1:]
    return count, int(((common >= min_overlap * area) & (common > 0)).sum())


def untouched(predicted: Layer, truth: Layer) -> int:
    """How many connected parts of the prediction touch no truth."""
    parts, count = _connected(predicted)
    return count - len(np.unique(parts[predicted & truth]))


def _connected(layer: Layer) -> tuple[npt.NDArray[np.int32], int]:
    """Numbers the parts whose pixels touch, also at corners."""
    parts, count = ndimage.label(layer, structure=np.ones((3, 3), dtype=np.uint8))
    return parts, int(count)


def _around(layer: Layer) -> tuple[slice, slice]:
    """The smallest box that holds the layer."""
    rows, columns = (np.flatnonzero(layer.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
