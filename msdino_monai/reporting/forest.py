"""One row for each of many figures, with its interval: what tells runs apart when their names are long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from msdino_monai.reporting.axis import Axis
from msdino_monai.reporting.mark import colour, label, path, point

_WIDTH, _ROW, _TOP, _BOTTOM, _SIDE = 400.0, 40.0, 28.0, 42.0, 14.0
_SOFT = "var(--soft, #55626f)"
# Words lie over the grid: a rim of the page's ground keeps them readable.
_RIM = 'paint-order="stroke" stroke="var(--ground, #fff)" stroke-width="4"'


def draw_forest(
    title: str,
    x_label: str,
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    x_range: tuple[float, float] = (0.0, 1.0),
    reference: float | None = None,
) -> str:
    """An SVG; each name stands above its row, with the figure at the right. What is undefined says so.

    `reference` is a value all are to be compared with, such as that of guessing.
    """
    if not len(names) == len(values) == len(low) == len(high):
        raise ValueError(f"a value, a low and a high are needed for each of {len(names)} names.")
    axis = Axis(*x_range, _SIDE, _WIDTH - _SIDE, "linear")
    bottom = _TOP + _ROW * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {bottom + _BOTTOM:g}" role="img" '
        f'aria-label="{escape(f"Chart: {title}, {x_label} of {len(names)} runs.")}" font-family="inherit" '
        f'font-size="12" fill="var(--ink, #16202c)">'
        f'<text x="{_SIDE:g}" y="15" font-size="13" font-weight="600">{escape(title)}</text>'
    ]
    for value, text in axis.ticks():
        at = axis.place(value) or 0.0
        parts.append(path([(at, _TOP), (at, bottom)], "var(--line, #d9dee4)", "", 1))
        parts.append(label(at, bottom + 16, text, "middle"))
    if reference is not None:
        at = axis.place(reference) or 0.0
        parts.append(path([(at, _TOP), (at, bottom)], _SOFT, "4 3", 1.2))
    for row, figure in enumerate(zip(names, values, low, high, strict=True)):
        parts.extend(_row(axis, _TOP + _ROW * row, *figure))
    parts.append(label(_WIDTH / 2, bottom + 35, x_label, "middle"))
    return "".join(parts) + "</svg>"


def _row(axis: Axis, top: float, name: str, value: float, low: float, high: float) -> list[str]:
    parts = [label(axis.start, top + 15, name, "start", _RIM)]
    at, left, right = (axis.place(each) for each in (value, low, high))
    if at is None:
        return [*parts, label(axis.end, top + 15, "undefined", "end", _RIM)]
    if left is not None and right is not None and not math.isclose(left, right):
        parts.append(path([(left, top + 28), (right, top + 28)], colour(0), "", 2))
    return [*parts, point(at, top + 28, 0), label(axis.end, top + 15, f"{value:.3f}", "end", _RIM)]
