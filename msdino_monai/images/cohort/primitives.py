"""Closed-form thicknesses, in mm along the ray, of the solids a chest is made of.

Axes: x grows to the patient's left (the image's right), y downwards from the lung apices, z to the front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Tubes are drawn in stacks of equal square patches: a few sizes keep both the stacks and the waste small.
_PATCHES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


@dataclass(frozen=True)
class Grid:
    """Where each pixel's ray crosses the patient: `lean` tilts the body sideways as a shear."""

    rows: int
    columns: int
    spacing: float
    left: float
    top: float
    lean: float = 0.0

    @cached_property
    def y(self) -> Array:
        return (self.top + self.spacing * (np.arange(self.rows, dtype=np.float64) + 0.5))[:, None]  # (H, 1)

    @cached_property
    def x(self) -> Array:
        return self.left + self.spacing * (np.arange(self.columns) + 0.5) + self.lean * self.y  # (H, W)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    def window(self, x_min: float, x_max: float, y_min: float, y_max: float) -> tuple[slice, slice]:
        """The rows and columns that hold a box given in mm; empty where it lies outside."""
        slack = abs(self.lean) * max(abs(y_min), abs(y_max))
        first_row, last_row = (y_min - self.top) / self.spacing - 1, (y_max - self.top) / self.spacing + 1
        first, last = (x_min - slack - self.left) / self.spacing - 1, (x_max + slack - self.left) / self.spacing + 1
        rows = slice(*(int(min(max(edge, 0), self.rows)) for edge in (first_row, last_row)))
        return rows, slice(*(int(min(max(edge, 0), self.columns)) for edge in (first, last)))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with one axis along the ray; `angle` turns its outline, in radians."""

    x: float
    y: float
    across: float
    along: float
    depth: float
    angle: float = 0.0

    @property
    def reach(self) -> float:
        """Half its width, seen from the front."""
        return float(np.hypot(self.across * np.cos(self.angle), self.along * np.sin(self.angle)))

    def level(self, x: Array, y: Array) -> Array:
        """1 in the middle, 0 on the outline, negative outside."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u = ((x - self.x) * cos + (y - self.y) * sin) / self.across
        v = ((y - self.y) * cos - (x - self.x) * sin) / self.along
        return np.asarray(1.0 - u * u - v * v)

    def box(self, grid: Grid) -> tuple[slice, slice]:
        reach = max(self.across, self.along)
        return grid.window(self.x - reach, self.x + reach, self.y - reach, self.y + reach)

    def draw(self, grid: Grid) -> Array:
        """Its thickness on the whole grid."""
        thickness = np.zeros(grid.shape)
        box = self.box(grid)
        thickness[box] = 2.0 * self.depth * root(self.level(grid.x[box], grid.y[box[0]]))
        return thickness


def root(values: Array) -> Array:
    """Square root, zero where negative: every chord of a quadric has this form."""
    return np.asarray(np.sqrt(np.maximum(values, 0.0)))


def union(grid: Grid, solids: list[Ellipsoid]) -> Array:
    """Thickness of ellipsoids that share their middle plane: nested chords, hence the longest."""
    thickness = np.zeros(grid.shape)
    for solid in solids:
        box = solid.box(grid)
        chord = 2.0 * solid.depth * root(solid.level(grid.x[box], grid.y[box[0]]))
        np.maximum(thickness[box], chord, out=thickness[box])
    return thickness


def smoothstep(values: Array | float, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, with level ends."""
    t = np.clip((np.asarray(values, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def curve(points: list[tuple[float, float]], steps: int) -> Array:
    """A smooth curve through the points (Catmull-Rom), as (steps + 1, 2) positions."""
    p = np.array([points[0], *points, points[-1]], dtype=np.float64)
    t = np.linspace(0.0, len(points) - 1.0, steps + 1)
    k = np.minimum(t.astype(int), len(points) - 2)
    t = (t - k)[:, None]
    a, b, c, d = p[k], p[k + 1], p[k + 2], p[k + 3]
    return np.asarray(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))


def curve_tube(grid: Grid, points: list[tuple[float, float]], radii: tuple[float, float], steps: int = 24) -> Array:
    """A tube of changing radius along a smooth curve."""
    line, radius = curve(points, steps), np.linspace(*radii, steps + 1)
    return tubes(grid, line[:-1], line[1:], radius[:-1], radius[1:])


def tubes(grid: Grid, start: Array, stop: Array, first: Array, last: Array, stretch: Array | float = 1.0) -> Array:
    """Summed thickness of n straight tubes from `start` to `stop` (n, 2) with radii `first` to `last`.

    `stretch` is the path's lengthening where a tube runs towards the viewer.
    """
    # A tube thinner than a pixel keeps its volume, spread over a pixel; sampled as it is it would break into dots.
    thin = 0.75 * grid.spacing
    weight = stretch * np.minimum(1.0, 0.5 * (first + last) / thin) ** 2
    first, last = np.maximum(first, thin), np.maximum(last, thin)
    reach = np.maximum(first, last)[:, None]
    low, high = np.minimum(start, stop) - reach, np.maximum(start, stop) + reach
    row = np.floor((low[:, 1] - grid.top) / grid.spacing).astype(int) - 1
    slack = np.abs(grid.lean * (high[:, 1] - low[:, 1]))
    shift = np.minimum(grid.lean * low[:, 1], grid.lean * high[:, 1])
    column = np.floor((low[:, 0] - shift - slack - grid.left) / grid.spacing).astype(int) - 1
    side = np.ceil(((high - low).max(axis=1) + 2 * slack) / grid.spacing).astype(int) + 3
    seen = (row < grid.rows) & (column < grid.columns) & (row + side > 0) & (column + side > 0)
    total = np.zeros(grid.rows * grid.columns)
    bucket = np.searchsorted(_PATCHES, side)
    parts = (row, column, start, stop, first, last, weight)
    for k in np.unique(bucket[seen]):
        chosen = seen & (bucket == k)
        index, chord = _patches(grid, _PATCHES[k], *(part[chosen] for part in parts))
        np.add.at(total, index, chord)
    return total.reshape(grid.shape)


def _patches(
    grid: Grid,
    size: int,
    row: Array,
    column: Array,
    start: Array,
    stop: Array,
    first: Array,
    last: Array,
    weight: Array,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Flat pixel numbers and thicknesses where n tubes are seen, each tried on a patch of size x size pixels."""
    rows = row[:, None, None] + np.arange(size)[:, None]  # (n, size, 1)
    columns = column[:, None, None] + np.arange(size)  # (n, 1, size)
    y = grid.top + grid.spacing * (rows + 0.5)
    x = grid.left + grid.spacing * (columns + 0.5) + grid.lean * y
    along = stop - start
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    unit = along / length[:, None]
    dx, dy = x - start[:, 0, None, None], y - start[:, 1, None, None]
    ux, uy = unit[:, 0, None, None], unit[:, 1, None, None]
    t = dx * ux + dy * uy
    off = dx * uy - dy * ux
    radius = first[:, None, None] + ((last - first) / length)[:, None, None] * t
    square = radius * radius - off * off
    # Flat ends: neighbours on a curve share one, so nothing is counted twice.
    hit = (t >= 0) & (t < length[:, None, None]) & (square > 0)
    hit &= (rows >= 0) & (rows < grid.rows) & (columns >= 0) & (columns < grid.columns)
    index: npt.NDArray[np.int64] = (rows * grid.columns + columns)[hit].astype(np.int64)
    owner = np.nonzero(hit)[0]
    return index, 2.0 * weight[owner] * np.sqrt(square[hit])
