"""Does text seem to be drawn into the pixels?

Software draws text in one constant value, the darkest or the brightest, with thin strokes: rows of many short runs
that continue from one row to the next. A lead marker has one or two strokes a row, noise does not continue, and an
overexposed area has long runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_SHARE = 0.02  # of all pixels: more is exposure, not writing
_MIN_RUNS = 8  # strokes across a few characters
_MIN_ROWS = 5  # the smallest legible type
_CELLS = 4  # a line of text may be as short as a quarter of the picture


def row_extremes(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The least and the greatest value of each row."""
    return pixels.min(axis=1), pixels.max(axis=1)


def shows_text(pixels: NDArray[Any], of_rows: tuple[NDArray[Any], NDArray[Any]] | None = None) -> bool:
    """True where (H, W) pixels carry what looks like drawn text; a hint, not a proof."""
    if min(pixels.shape) < 32:
        return False
    darkest, brightest = of_rows or row_extremes(pixels)
    return _drawn_with(pixels, brightest.max(), brightest) or _drawn_with(pixels, darkest.min(), darkest)


def _drawn_with(pixels: NDArray[Any], value: Any, of_rows: NDArray[Any]) -> bool:
    """True where one extreme value writes; most pictures reach theirs in a few rows, so the rows' own come first."""
    return int(np.count_nonzero(of_rows == value)) >= _MIN_ROWS and _written_in(pixels == value)


def _written_in(mask: NDArray[np.bool_]) -> bool:
    """True where at least `_MIN_ROWS` neighbouring rows of `mask` hold `_MIN_RUNS` short, continued runs nearby."""
    on = int(np.count_nonzero(mask))
    if not _MIN_RUNS * _MIN_ROWS <= on <= _MAX_SHARE * mask.size:
        return False
    busy_rows = np.count_nonzero(mask, axis=1) >= _MIN_RUNS
    if not busy_rows.any():
        return False
    height, width = mask.shape
    edges = np.zeros((height, width + 2), dtype=np.int8)
    edges[:, 1:-1] = mask
    step = np.diff(edges, axis=1)  # (H, W + 2) -> (H, W + 1)
    rows, starts = np.nonzero(step == 1)
    stops = np.nonzero(step == -1)[1]
    stroke = stops - starts <= max(6, width // 100)
    below = np.minimum(rows + 1, height - 1)
    continued = mask[below, starts] | mask[below, stops - 1]
    runs = np.zeros((height, _CELLS), dtype=np.int64)
    keep = stroke & continued
    np.add.at(runs, (rows[keep], starts[keep] * _CELLS // width), 1)
    busy = (runs >= _MIN_RUNS).astype(np.int64)
    block = np.lib.stride_tricks.sliding_window_view(busy, _MIN_ROWS, axis=0).sum(-1)
    return bool((block == _MIN_ROWS).any())
