"""The way of the data as a drawing: three rooms, side by side on a desk and one below the other on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_ROOM_WIDTH, _ROOM_HEIGHT = 300.0, 236.0
_GAP_ACROSS, _GAP_DOWN = 78.0, 62.0
_EDGE = 8.0
_SIDE = 8  # patches along a picture's edge
_INK, _SOFT, _LINE, _RAISED = (
    "var(--ink, #16202c)",
    "var(--soft, #55626f)",
    "var(--line, #d9dee4)",
    "var(--raised, #f6f7f9)",
)
_BLUE, _ORANGE, _GREEN = "var(--series-0, #0b62a8)", "var(--series-1, #c8540a)", "var(--series-2, #1a7f5a)"


@dataclass(frozen=True)
class Way:
    """What is written into the drawing; each is one short line, and may be empty."""

    hospitals: str = "three hospitals, their images"
    tokens: str = ""
    transfer: str = ""
    coordinator: str = "sees shuffled patches, no label"
    returned: str = ""
    tasks: str = "own images, few own labels"


def draw_way(way: Way, tall: bool = False) -> str:
    """The drawing as SVG."""
    steps = [(0.0, 0.0), (0.0, _ROOM_HEIGHT + _GAP_DOWN)] if tall else [(0.0, 0.0), (_ROOM_WIDTH + _GAP_ACROSS, 0.0)]
    (left, top), (across, down) = (_EDGE, _EDGE), steps[1]
    places = [(left + number * across, top + number * down) for number in range(3)]
    width = _ROOM_WIDTH + 2 * _EDGE + 2 * across
    height = _ROOM_HEIGHT + 2 * _EDGE + 2 * down
    rooms = (_hospital(*places[0], way), _coordinator(*places[1], way), _return(*places[2], way))
    arrows = [
        _arrow(places[0], tall, "one transfer", way.transfer, _ORANGE),
        _arrow(places[1], tall, "returned once", way.returned, _GREEN),
    ]
    spoken = (
        "The way of the data: each hospital cuts radiographs into patches, embeds and shuffles them and sends one "
        "sealed export. The coordinator trains a body on subsets of the shuffled tokens and returns it once. The "
        "hospitals fine-tune it for findings and masks."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(spoken)}" font-family="inherit" font-size="12.5" fill="{_INK}">'
        f"{''.join(rooms)}{''.join(arrows)}</svg>"
    )


def _room(x: float, y: float, title: str, foot: str, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_ROOM_WIDTH:g}" height="{_ROOM_HEIGHT:g}" rx="14" fill="{_RAISED}" '
        f'stroke="{_LINE}"/><rect x="{x + 16:.1f}" y="{y + 17:.1f}" width="4" height="17" rx="2" fill="{colour}"/>'
        + _text(x + 27, y + 30.5, title, size=15, weight=600)
        + _text(x + _ROOM_WIDTH / 2, y + _ROOM_HEIGHT - 15, foot, "middle", _SOFT)
    )


def _hospital(x: float, y: float, way: Way) -> str:
    parts = [_room(x, y, "Each hospital", way.hospitals, _BLUE)]
    top, size = y + 58, 76.0
    order = _shuffled_places()
    parts.append(_chest(x + 18, top, size))
    parts.append(_small_arrow(x + 99, top + size / 2))
    parts.append(_patches(x + 118, top, size, order, gap=1.6))
    parts.append(_small_arrow(x + 199, top + size / 2))
    parts.append(_envelope(x + 218, top + 12))
    for middle, words in ((56, ("radiograph",)), (156, ("embedded,", "shuffled")), (250, ("sealed", "export"))):
        for line, word in enumerate(words):
            parts.append(_text(x + middle, top + size + 19 + 15 * line, word, "middle"))
    parts.append(_text(x + _ROOM_WIDTH / 2, y + _ROOM_HEIGHT - 33, way.tokens, "middle", _SOFT))
    return "".join(parts)


def _coordinator(x: float, y: float, way: Way) -> str:
    parts = [_room(x, y, "Coordinator", way.coordinator, _ORANGE)]
    order = _shuffled_places()
    few = [place if number % 9 in (0, 4, 7) else None for number, place in enumerate(order)]
    many = [place if number % 5 not in (1, 3) else None for number, place in enumerate(order)]
    for row, (kept, name) in enumerate(((few, "student"), (many, "teacher"))):
        top = y + 52 + 66 * row
        parts.append(_patches(x + 18, top, 54, kept, gap=1.2))
        parts.append(_small_arrow(x + 78, top + 27))
        parts.append(_box(x + 98, top + 9, 72, 36, name, _ORANGE))
        bend = top + 27 + (18 if row == 0 else -18)
        parts.append(_curve([(x + 172, top + 27), (x + 192, top + 27), (x + 196, bend)], _SOFT))
    middle = y + 52 + 60
    parts.append(_text(x + 196, middle + 4, "agree?", "middle", _SOFT))
    parts.append(_small_arrow(x + 220, middle))
    parts.append(_box(x + 240, middle - 30, 46, 60, "ViT body", _GREEN, split=True))
    parts.append(_text(x + 45, y + 52 + 66 + 54 + 19, "random subsets of tokens", "start", _SOFT, shift=-27))
    return "".join(parts)


def _return(x: float, y: float, way: Way) -> str:
    parts = [_room(x, y, "Each hospital again", way.tasks, _GREEN)]
    top, size = y + 62, 76.0
    parts.append(_chest(x + 18, top, size))
    parts.append(_small_arrow(x + 99, top + size / 2))
    parts.append(_box(x + 118, top + 8, 46, 60, "ViT body", _GREEN, split=True))
    parts.append(_small_arrow(x + 169, top + size / 2))
    for row, share in enumerate((0.85, 0.35, 0.15)):
        at = top - 10 + 15 * row
        parts.append(f'<rect x="{x + 190:.1f}" y="{at:.1f}" width="90" height="9" rx="3" fill="{_LINE}"/>')
        parts.append(
            f'<rect x="{x + 190:.1f}" y="{at:.1f}" width="{90 * share:.1f}" height="9" rx="3" fill="{_BLUE}"/>'
        )
    parts.append(_text(x + 235, top + 49, "findings", "middle"))
    parts.append(_lungs(x + 235, top + 76, 36))
    parts.append(_text(x + 235, top + 113, "masks", "middle"))
    parts.append(_text(x + 56, top + size + 19, "own image", "middle"))
    parts.append(_text(x + 141, top + size + 19, "fine-tuned", "middle"))
    return "".join(parts)


def _arrow(room: tuple[float, float], tall: bool, first: str, second: str, colour: str) -> str:
    """From one room to the next, with what travels beside it."""
    x, y = room
    if tall:
        at = x + _ROOM_WIDTH / 2
        start, end = y + _ROOM_HEIGHT + 6, y + _ROOM_HEIGHT + _GAP_DOWN - 8
        line = f"M{at:.1f} {start:.1f}V{end:.1f}m-7 -8l7 8l7 -8"
        words = _text(at + 16, (start + end) / 2 - 2, first, weight=600) + _text(
            at + 16, (start + end) / 2 + 14, second, "start", _SOFT
        )
    else:
        at = y + _ROOM_HEIGHT / 2
        start, end = x + _ROOM_WIDTH + 8, x + _ROOM_WIDTH + _GAP_ACROSS - 8
        line = f"M{start:.1f} {at:.1f}H{end:.1f}m-8 -7l8 7l-8 7"
        middle = (start + end) / 2
        words = "".join(
            _text(middle, at - 30 + 15 * row, word, "middle", weight=600)
            for row, word in enumerate(first.split(" ", 1))
        ) + _text(middle, at + 24, second, "middle", _SOFT)
    return f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="3" stroke-linecap="round"/>{words}'


def _brightness(place: int) -> float:
    """A chest in a few numbers: two dark lungs, a bright spine, heart and diaphragm."""
    row, column = divmod(place, _SIDE)
    y, x = (row + 0.5) / _SIDE, (column + 0.5) / _SIDE
    lungs = sum(math.exp(-(((x - centre) / 0.15) ** 4) - ((y - 0.45) / 0.3) ** 4) for centre in (0.27, 0.73))
    heart = math.exp(-(((x - 0.57) / 0.14) ** 2) - ((y - 0.6) / 0.16) ** 2)
    shoulders = 0.25 if y < 0.15 and abs(x - 0.5) > 0.3 else 0.0
    return min(1.0, max(0.05, 0.78 - 0.62 * lungs + 0.42 * heart - shoulders))


def _chest(x: float, y: float, size: float) -> str:
    """The same chest, whole: what a radiograph looks like from afar."""

    def oval(across: float, down: float, wide: float, high: float, level: int) -> str:
        return (
            f'<ellipse cx="{x + across * size:.1f}" cy="{y + down * size:.1f}" rx="{wide * size:.1f}" '
            f'ry="{high * size:.1f}" fill="rgb({level},{level},{level})"/>'
        )

    ribs = "".join(
        f'<path d="M{x + (0.5 + side * 0.06) * size:.1f} {y + (0.16 + 0.13 * rib) * size:.1f}q{side * 0.2 * size:.1f} '
        f'{-0.05 * size:.1f} {side * 0.36 * size:.1f} {0.14 * size:.1f}" fill="none" stroke="#fff" '
        f'stroke-opacity="0.16" stroke-width="2.2"/>'
        for rib in range(5)
        for side in (-1, 1)
    )
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{size:g}" height="{size:g}" rx="5" fill="rgb(150,150,150)"/>'
        + oval(0.28, 0.47, 0.16, 0.34, 45)
        + oval(0.72, 0.47, 0.16, 0.34, 45)
        + oval(0.57, 0.62, 0.14, 0.15, 205)
        + f'<rect x="{x + 0.45 * size:.1f}" y="{y + 2:.1f}" width="{0.1 * size:.1f}" height="{size - 4:.1f}" '
        f'fill="rgb(205,205,205)"/>' + ribs
    )


def _patches(x: float, y: float, size: float, places: Sequence[int | None], gap: float) -> str:
    """A square of patches; each shows the part of the chest at its place, None is left empty."""
    step = size / _SIDE
    parts = []
    for number, place in enumerate(places):
        row, column = divmod(number, _SIDE)
        box = f'x="{x + column * step:.1f}" y="{y + row * step:.1f}" width="{step - gap:.1f}" height="{step - gap:.1f}"'
        if place is None:
            parts.append(f'<rect {box} fill="none" stroke="{_LINE}" stroke-width="0.7"/>')
        else:
            level = round(25 + 215 * _brightness(place))
            parts.append(f'<rect {box} fill="rgb({level},{level},{level})"/>')
    return "".join(parts)


def _shuffled_places() -> list[int]:
    """A fixed order that looks like none."""
    count = _SIDE * _SIDE
    return sorted(range(count), key=lambda place: (place * 37 + 11 * (place // 5) ** 2) % 101)


def _box(x: float, y: float, width: float, height: float, name: str, colour: str, split: bool = False) -> str:
    words = name.split() if split else [name]
    first = y + height / 2 + 4.5 - 7.5 * (len(words) - 1)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:g}" height="{height:g}" rx="9" fill="var(--ground, #fff)" '
        f'stroke="{colour}" stroke-width="2"/>'
        + "".join(_text(x + width / 2, first + 15 * row, word, "middle") for row, word in enumerate(words))
    )


def _envelope(x: float, y: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="64" height="46" rx="6" fill="var(--ground, #fff)" stroke="{_BLUE}" '
        f'stroke-width="2"/><path d="M{x + 2:.1f} {y + 4:.1f}l30 24l30 -24" fill="none" stroke="{_BLUE}" '
        f'stroke-width="2" stroke-linejoin="round"/>'
        f'<circle cx="{x + 32:.1f}" cy="{y + 32:.1f}" r="8" fill="{_ORANGE}"/>'
    )


def _lungs(x: float, y: float, height: float) -> str:
    """Two lungs around the middle x, outlined as a mask is."""
    parts = []
    for side in (-1, 1):
        inner, outer = x + side * 4, x + side * 24
        parts.append(
            f'<path d="M{inner:.1f} {y - height / 2:.1f}C{outer:.1f} {y - height / 2:.1f} {outer + side * 4:.1f} '
            f"{y:.1f} {outer + side * 2:.1f} {y + height / 2:.1f}C{x + side * 14:.1f} {y + height / 3:.1f} "
            f'{inner:.1f} {y + height / 3:.1f} {inner:.1f} {y - height / 2:.1f}Z" fill="{_ORANGE}" fill-opacity="0.3" '
            f'stroke="{_ORANGE}" stroke-width="1.8"/>'
        )
    return "".join(parts)


def _small_arrow(x: float, y: float) -> str:
    return (
        f'<path d="M{x:.1f} {y:.1f}h13m-5 -4.5l5 4.5l-5 4.5" fill="none" stroke="{_SOFT}" stroke-width="1.8" '
        f'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _curve(points: list[tuple[float, float]], colour: str) -> str:
    (x0, y0), (x1, y1), (x2, y2) = points
    return (
        f'<path d="M{x0:.1f} {y0:.1f}Q{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}" fill="none" stroke="{colour}" '
        f'stroke-width="1.6" stroke-dasharray="3 3"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    colour: str = "",
    size: float = 0,
    weight: int = 0,
    shift: float = 0,
) -> str:
    if not words:
        return ""
    more = (f' fill="{colour}"' if colour else "") + (f' font-size="{size:g}"' if size else "")
    more += f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x + shift:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
