"""Solids on a grid of points in the patient, and smooth random fields fixed to the patient.

Axes in millimetres from the middle between the kidneys: x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import

ndimage, _ = optional_import("scipy.ndimage")

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Place = tuple[float, float, float]

# The part of the patient that random fields cover.
_LOW, _HIGH = np.array([-260.0, -220.0, -160.0]), np.array([260.0, 220.0, 160.0])


@dataclass(frozen=True)
class Points:
    """Where each voxel's middle lies in the patient."""

    x: Array
    y: Array
    z: Array

    @classmethod
    def of(cls, shape: Sequence[int], affine: npt.NDArray[np.float64]) -> Points:
        """Voxel centres under an affine that leads to the patient's left, back and head (LPS+)."""
        indices = np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij", sparse=True)
        x, y, z = (
            np.asarray(sum(affine[row, axis] * index for axis, index in enumerate(indices)) + affine[row, 3])
            for row in range(3)
        )
        return cls(*(np.broadcast_to(each, tuple(shape)).astype(np.float32) for each in (x, y, z)))


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes along x, y and z, turned about z and then about y, in radians."""

    middle: Place
    half: Place
    about_z: float = 0.0
    about_y: float = 0.0

    def depth(self, points: Points, wobble: Array | float = 0.0) -> Array:
        """Roughly the distance in mm to the surface, positive inside; `wobble` shifts the surface outwards."""
        u, v, w = self.local(points)
        level = np.sqrt((u / self.half[0]) ** 2 + (v / self.half[1]) ** 2 + (w / self.half[2]) ** 2)
        return np.asarray((1.0 - level) * np.float32(min(self.half)) + wobble, dtype=np.float32)

    def local(self, points: Points) -> tuple[Array, Array, Array]:
        """Points along the ellipsoid's own axes, from its middle."""
        x, y, z = (each - np.float32(c) for each, c in zip((points.x, points.y, points.z), self.middle, strict=True))
        cos, sin = np.float32(np.cos(self.about_z)), np.float32(np.sin(self.about_z))
        x, y = x * cos + y * sin, y * cos - x * sin
        cos, sin = np.float32(np.cos(self.about_y)), np.float32(np.sin(self.about_y))
        return x * cos + z * sin, y, z * cos - x * sin

    def out(self, local: Place) -> Place:
        """A point of the ellipsoid's own axes, in the patient."""
        u, v, w = local
        cos, sin = np.cos(self.about_y), np.sin(self.about_y)
        u, w = u * cos - w * sin, w * cos + u * sin
        cos, sin = np.cos(self.about_z), np.sin(self.about_z)
        u, v = u * cos - v * sin, v * cos + u * sin
        return float(u + self.middle[0]), float(v + self.middle[1]), float(w + self.middle[2])


def tube(points: Points, x: float, y: float, radius: float, bend: float = 0.0) -> Array:
    """Depth in a vessel that runs from foot to head; `bend` is how far it swings over 100 mm."""
    swing = np.float32(bend) * np.sin(points.z / np.float32(60.0))
    return np.asarray(radius - np.hypot(points.x - x - swing, points.y - y), dtype=np.float32)


def cloud(points: Points, rng: np.random.Generator, cell: float) -> Array:
    """A smooth random field with features of about `cell` mm and a deviation of about 1, fixed to the patient."""
    knots = tuple(int(length) for length in np.ceil((_HIGH - _LOW) / cell) + 4)
    values = rng.standard_normal(knots).astype(np.float32)
    places = np.stack([(each - low) / cell + 1 for each, low in zip((points.x, points.y, points.z), _LOW, strict=True)])
    field = ndimage.map_coordinates(values, places, order=3, mode="mirror", prefilter=False)
    return np.asarray(field / np.float32(0.33), dtype=np.float32)  # 0.33: what the spline leaves of the deviation


def cover(depth: Array, width: float) -> Array:
    """How much of a voxel of `width` mm lies inside, from the depth of its middle."""
    return np.asarray(np.clip(depth / np.float32(width) + np.float32(0.5), 0.0, 1.0))
