"""The radiographer's lead letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from msdino_monai.images.cohort.primitives import Array, Grid

if TYPE_CHECKING:
    from msdino_monai.images.cohort.scanner import Style

_LETTERS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


def draw_marker(display: Array, grid: Grid, style: Style) -> Array:
    """The image with the letter on the side it names: the patient's left is the image's right."""
    letter = np.array([[cell == "#" for cell in row] for row in _LETTERS[style.marker]])
    unit = max(1, round(2.6 / grid.spacing))
    stamp = np.kron(letter, np.ones((unit, unit), dtype=bool))
    height, width = stamp.shape
    if grid.rows < 3 * height or grid.columns < 3 * width:
        return display
    row = int(style.marker_height * grid.rows)
    inset = int(0.07 * grid.columns)
    column = grid.columns - inset - width if style.marker == "L" else inset
    marked: Array = display.copy()
    marked[row : row + height, column : column + width][stamp] = 0.985
    return marked
