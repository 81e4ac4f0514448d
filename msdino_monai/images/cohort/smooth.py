"""Smooth fields and wide blurs by small matrices: the same on any grid, and quick without an imaging library."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from msdino_monai.images.cohort.primitives import Array, Grid

# The part of the patient, in mm, that random fields cover; it is wider than any detector.
_FIELD_X, _FIELD_Y = (-280.0, 280.0), (-190.0, 370.0)


def spline_weights(positions: Array, first: float, cell: float, knots: int) -> Array:
    """Cubic B-spline weights (positions, knots) of equally spaced knots; rows sum to 1 inside the field."""
    t = np.abs((positions[:, None] - first) / cell - np.arange(knots))
    near = 2.0 / 3.0 - t * t * (1.0 - 0.5 * t)
    far = np.maximum(2.0 - t, 0.0) ** 3 / 6.0
    return np.asarray(np.where(t < 1.0, near, far))


def cloud(rng: np.random.Generator, grid: Grid, cell: float) -> Array:
    """A smooth random field with features of about `cell` mm, fixed to the patient, of unit deviation."""
    knots = int((_FIELD_X[1] - _FIELD_X[0]) / cell) + 3
    values = rng.standard_normal((knots, knots))
    middle = grid.x[grid.rows // 2]
    columns = spline_weights(middle, _FIELD_X[0] - cell, cell, knots)
    rows = spline_weights(grid.y[:, 0], _FIELD_Y[0] - cell, cell, knots)
    return np.asarray((rows @ values) @ columns.T / 0.48)  # 0.48: what the spline leaves of the deviation


@lru_cache(maxsize=32)
def _blur_matrices(size: int, sigma: float) -> tuple[Array, Array]:
    cell = max(sigma, 1.0)
    knots = int(np.ceil(size / cell)) + 3
    centres = (np.arange(knots) - 1.0) * cell
    positions = np.arange(size, dtype=np.float64) + 0.5
    gather = np.exp(-0.5 * ((positions - centres[:, None]) / sigma) ** 2)
    # Beyond the edge the picture is taken to go on as it ends.
    gather[:, 0] += 0.5 * np.maximum(0.0, -centres / cell)
    gather /= gather.sum(axis=1, keepdims=True)
    return gather, spline_weights(positions, -cell, cell, knots)


def blur(image: Array, sigma: float) -> Array:
    """A Gaussian blur of `sigma` >= 2 pixels, computed on a coarse grid."""
    rows_in, rows_out = _blur_matrices(image.shape[0], sigma)
    columns_in, columns_out = _blur_matrices(image.shape[1], sigma)
    return np.asarray(rows_out @ ((rows_in @ image) @ columns_in.T) @ columns_out.T)


def soften(image: Array, sigma: float) -> Array:
    """A blur of less than about 1.2 pixels: five taps along each axis."""
    near, far = np.exp(-0.5 / sigma**2), np.exp(-2.0 / sigma**2)
    total = 1.0 + 2.0 * (near + far)
    for axis in (0, 1):
        padded = np.pad(image, [(2, 2) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
        taps = [padded[k : k + image.shape[0]] if axis == 0 else padded[:, k : k + image.shape[1]] for k in range(5)]
        image = (taps[2] + near * (taps[1] + taps[3]) + far * (taps[0] + taps[4])) / total
    return image
