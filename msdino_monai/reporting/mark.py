"""What charts are drawn with: lines, words and points, in the colours of the page around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# The page gives the colours of series; these are for a drawing outside of one.
_COLOURS = ("#0b62a8", "#c8540a", "#1a7f5a", "#8b3fa8", "#6b6b00", "#b0245f")


def colour(number: int) -> str:
    number %= len(_COLOURS)
    return f"var(--series-{number}, {_COLOURS[number]})"


def path(points: Sequence[tuple[float, float]], stroke: str, dashes: str, width: float) -> str:
    corners = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    joined = f'stroke-width="{width:g}" stroke-linejoin="round"'
    return f'<path d="M{corners}" fill="none" stroke="{stroke}" {joined}{dashed}/>'


def label(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    if not text:
        return ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def point(x: float, y: float, number: int) -> str:
    fill = colour(number)
    if number % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{fill}"/>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if number % 3 == 2 else ""
    return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{fill}"{turned}/>'
