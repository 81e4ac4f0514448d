"""How well one class of a predicted volume agrees with the mask drawn by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import

from msdino_monai.finetuning.segmentation.score import Layer, Score, dice

ndimage, _ = optional_import("scipy.ndimage")


def score_volume(predicted: Layer, truth: Layer, spacing: Sequence[float], min_overlap: float = 0.1) -> Score:
    """Compare two layers (X, Y, Z); distances are in `spacing`'s unit, and `pixels` are voxels.

    What is empty is treated as `Score` says.

    Args:
        predicted: where the network sees the class.
        truth: where it is.
        spacing: between voxels, for each axis.
        min_overlap: the share of a lesion that must be predicted for it to count as found.
    """
    around = _around(predicted | truth)
    ours, theirs = predicted[around], truth[around]
    truth_parts, lesions = _connected(theirs)
    parts, alarms = _connected(ours)
    size = np.bincount(truth_parts.ravel(), minlength=lesions + 1)[1:]
    common = np.bincount(truth_parts[ours], minlength=lesions + 1)[1:]
    hd95, mean = distances(ours, theirs, spacing)
    return Score(
        dice=dice(ours, theirs),
        hd95=hd95,
        surface_distance=mean,
        truth_pixels=int(theirs.sum()),
        predicted_pixels=int(ours.sum()),
        lesions=lesions,
        found=int(((common >= min_overlap * size) & (common > 0)).sum()),
        false_alarms=alarms - len(np.unique(parts[ours & theirs])),
    )


def distances(predicted: Layer, truth: Layer, spacing: Sequence[float]) -> tuple[float, float]:
    """The 95th percentile of the distances between the surfaces, and their mean; undefined where either is empty."""
    if not predicted.any() or not truth.any():
        return math.nan, math.nan
    # One voxel of background on every side, so that a surface along the volume's edge is one.
    surfaces = [_surface(np.pad(layer, 1)) for layer in (predicted, truth)]
    ways = [
        ndimage.distance_transform_edt(~there, sampling=tuple(spacing))[here]
        for here, there in (surfaces, surfaces[::-1])
    ]
    return max(float(np.percentile(way, 95)) for way in ways), float(np.concatenate(ways).mean())


def _surface(layer: Layer) -> Layer:
    """Voxels of the layer with a face outside it."""
    return np.asarray(layer & ~ndimage.binary_erosion(layer))


def _connected(layer: Layer) -> tuple[npt.NDArray[np.int32], int]:
    """Numbers the parts whose voxels touch, also at corners."""
    parts, count = ndimage.label(layer, structure=np.ones((3, 3, 3), dtype=np.uint8))
    return parts, int(count)


def _around(layer: Layer) -> tuple[slice, ...]:
    """The smallest box that holds the layer; all where it is empty."""
    box = ndimage.find_objects(layer.astype(np.uint8), max_label=1)[0]
    return (slice(None),) * layer.ndim if box is None else tuple(box)
