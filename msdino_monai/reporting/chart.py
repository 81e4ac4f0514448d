"""Small charts as SVG: lines with intervals, points, bars; they take their colours from the page around them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from msdino_monai.reporting.axis import Axis, Scale, short, widened
from msdino_monai.reporting.mark import colour, label, path, point

_WIDTH, _HEIGHT = 400.0, 276.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 14.0, 30.0, 46.0
_LINE_HEIGHT = 17.5
# Series differ in colour, in dashes and in the shape of their points: grey prints and all eyes tell them apart.
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "12 4")


@dataclass
class _Series:
    kind: Literal["line", "points", "bars"]
    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass
class Chart:
    """Axes with a title; `line`, `points` and `bars` add to it, and `svg` draws it.

    Where a series has `low` and `high`, they are drawn as a band (lines) or as whiskers (points, bars). Points that are
    not finite, or not above 0 on a logarithmic axis, are left out; a line is broken there.
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    diagonal: bool = False
    _series: list[_Series] = field(default_factory=list, init=False)
    _names: list[str] = field(default_factory=list, init=False)
    _marks: list[tuple[float, str]] = field(default_factory=list, init=False)

    def line(
        self,
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        low: Sequence[float] = (),
        high: Sequence[float] = (),
    ) -> Chart:
        return self._add("line", name, x, y, low, high)

    def points(
        self, name: str, x: Sequence[float], y: Sequence[float], low: Sequence[float] = (), high: Sequence[float] = ()
    ) -> Chart:
        return self._add("points", name, x, y, low, high)

    def bars(
        self,
        labels: Sequence[str],
        y: Sequence[float],
        low: Sequence[float] = (),
        high: Sequence[float] = (),
        name: str = "",
    ) -> Chart:
        """One bar for each label; further calls with the same labels stand beside the first."""
        if self._names and list(labels) != self._names:
            raise ValueError(f"bars of one chart share their labels {self._names}, got {list(labels)}.")
        self._names = list(labels)
        return self._add("bars", name, range(len(labels)), y, low, high)

    def mark(self, x: float, text: str) -> Chart:
        """A thin upright line with a word beside it."""
        self._marks.append((float(x), text))
        return self

    def _add(
        self,
        kind: Literal["line", "points", "bars"],
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
    ) -> Chart:
        series = _Series(kind, name, *([float(value) for value in each] for each in (x, y, low, high)))
        lengths = {len(series.x), len(series.y), len(series.low) or len(series.x), len(series.high) or len(series.x)}
        if len(lengths) > 1 or bool(series.low) != bool(series.high):
            raise ValueError(f"series {name!r} needs as many y, low and high as x ({len(series.x)}).")
        self._series.append(series)
        return self

    def svg(self) -> str:
        named = [(place, each.name) for place, each in enumerate(self._series) if each.name]
        legend = _legend(named, [each.kind for each in self._series]) if len(named) > 1 else ([], 0.0)
        wrapped = _wrapped(self._names)
        below = _LINE_HEIGHT * (max(map(len, wrapped), default=1) - 1)
        top = _TOP + legend[1]
        across = self._axis("x", _LEFT, _WIDTH - _RIGHT)
        upwards = self._axis("y", _HEIGHT + legend[1] - _BOTTOM, top)
        height = _HEIGHT + legend[1] + below - (0 if self.x_label else _LINE_HEIGHT)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" role="img" '
            f'aria-label="{escape(self._spoken())}" font-family="inherit" font-size="12" fill="var(--ink, #16202c)">',
            f'<text x="{_LEFT - 46:g}" y="15" font-size="13" font-weight="600">{escape(self.title)}</text>',
            *legend[0],
            *self._frame(across, upwards, height, wrapped),
        ]
        if self.diagonal:
            parts.append(
                path([(across.start, upwards.start), (across.end, upwards.end)], "var(--soft, #667)", "2 4", 1)
            )
        for x, text in self._marks:
            at = across.place(x)
            if at is not None and across.start <= at <= across.end:
                parts.append(path([(at, upwards.start), (at, upwards.end)], "var(--soft, #667)", "4 3", 1))
                left = at > across.start + 0.6 * (across.end - across.start)
                anchor, shift = ("end", -5) if left else ("start", 5)
                parts.append(label(at + shift, upwards.end + 12, text, anchor))
        for place, series in enumerate(self._series):
            parts.extend(self._drawn(place, series, across, upwards))
        return "".join(parts) + "</svg>"

    def _spoken(self) -> str:
        series = ", ".join(each.name for each in self._series if each.name)
        return f"Chart: {self.title}. {self.y_label} against {self.x_label or 'kind'}{': ' if series else ''}{series}."

    def _axis(self, which: Literal["x", "y"], start: float, end: float) -> Axis:
        scale, fixed = (self.x_scale, self.x_range) if which == "x" else (self.y_scale, self.y_range)
        if which == "x" and self._names:
            return Axis(-0.6, len(self._names) - 0.4, start, end, "linear")
        values = [
            value for each in self._series for value in (each.x if which == "x" else each.y + each.low + each.high)
        ]
        if which == "x":
            values += [value for value, _ in self._marks]
        values = [value for value in values if math.isfinite(value) and (scale == "linear" or value > 0)]
        low, high = fixed or (min(values, default=1.0), max(values, default=1.0))
        if not fixed and which == "y" and self._names and scale == "linear":
            low, high = min(low, 0.0), max(high, 0.0)
        if fixed is None and which == "y" and self._names and scale == "linear":
            high += 0.08 * (high - low)  # room for the figures on the bars
        if fixed is None:
            low, high = widened(low, high, scale, 0.0 if which == "x" or low == 0 else 0.06)
        whole = which == "x" and all(value == round(value) for value in values) and fixed is None
        return Axis(low, high, start, end, scale, whole)

    def _frame(self, across: Axis, upwards: Axis, height: float, wrapped: list[list[str]]) -> list[str]:
        parts = []
        for value, text in upwards.ticks():
            at = upwards.place(value) or 0.0
            parts.append(path([(across.start, at), (across.end, at)], "var(--line, #d9dee4)", "", 1))
            parts.append(label(across.start - 6, at + 4, text, "end"))
        for value, lines in enumerate(wrapped) if wrapped else [(value, [text]) for value, text in across.ticks()]:
            at = across.place(value) or 0.0
            parts.append(path([(at, upwards.start), (at, upwards.start + 4)], "var(--soft, #667)", "", 1))
            for row, line in enumerate(lines):
                parts.append(label(at, upwards.start + 17 + 14 * row, line, "middle"))
        parts.append(path([(across.start, upwards.start), (across.end, upwards.start)], "var(--soft, #667)", "", 1))
        parts.append(label((across.start + across.end) / 2, height - 6, self.x_label, "middle"))
        middle = (upwards.start + upwards.end) / 2
        turned = f'transform="rotate(-90 12 {middle:.1f})"'
        parts.append(label(12, middle, self.y_label, "middle", turned))
        return parts

    def _drawn(self, number: int, series: _Series, across: Axis, upwards: Axis) -> list[str]:
        ink = colour(number)
        shown = [(across.place(x), upwards.place(y)) for x, y in zip(series.x, series.y, strict=True)]
        low, high = ([upwards.place(value) for value in each] for each in (series.low, series.high))
        if series.kind == "bars":
            return self._bars(number, series, across, upwards, low, high)
        parts = []
        if series.kind == "line":
            if low:
                edge = [(x, y) for (x, _), y in zip(shown, high, strict=True) if x is not None and y is not None]
                back = [(x, y) for (x, _), y in zip(shown, low, strict=True) if x is not None and y is not None]
                corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*edge, *reversed(back)])
                parts.append(f'<polygon points="{corners}" fill="{ink}" opacity="0.18"/>')
            parts.extend(path(run, ink, _DASHES[number % len(_DASHES)], 2) for run in _runs(shown) if len(run) > 1)
        elif low:
            for (x, _), bottom, top in zip(shown, low, high, strict=True):
                if x is not None and bottom is not None and top is not None:
                    parts.append(path([(x, bottom), (x, top)], ink, "", 1.5))
        lone = {run[0] for run in _runs(shown) if len(run) == 1}
        for x, y in shown:
            if x is not None and y is not None and (series.kind == "points" or len(shown) <= 12 or (x, y) in lone):
                parts.append(point(x, y, number))
        return parts

    def _bars(
        self,
        number: int,
        series: _Series,
        across: Axis,
        upwards: Axis,
        low: list[float | None],
        high: list[float | None],
    ) -> list[str]:
        together = [each for each in self._series if each.kind == "bars"]
        room = (across.end - across.start) / max(1, len(self._names)) * 0.72
        width = room / len(together)
        place = next(at for at, each in enumerate(together) if each is series)
        ground = upwards.place(0.0) if upwards.scale == "linear" else upwards.start
        parts = []
        for index, value in enumerate(series.y):
            at, top = across.place(series.x[index]), upwards.place(value)
            if at is None or top is None or ground is None:
                continue
            left = at - room / 2 + place * width
            size = (
                f'x="{left:.1f}" y="{min(top, ground):.1f}" width="{width * 0.92:.1f}" height="{abs(ground - top):.1f}"'
            )
            parts.append(f'<rect {size} rx="2" fill="{colour(number)}" opacity="0.85"/>')
            middle, bottom, upper = left + width * 0.46, low[index] if low else None, high[index] if high else None
            if bottom is not None and upper is not None:
                parts.append(path([(middle, bottom), (middle, upper)], "var(--ink, #16202c)", "", 1.3))
            parts.append(label(middle, min(top, ground, upper or top) - 5, short(value), "middle"))
        return parts


def _wrapped(names: Sequence[str]) -> list[list[str]]:
    """Words under bars, in as many lines as the room of one bar asks for."""
    room = max(6, int((_WIDTH - _LEFT - _RIGHT) / max(1, len(names)) / 6.6))
    return [textwrap.wrap(name, room) or [""] for name in names]


def _runs(points: Sequence[tuple[float | None, float | None]]) -> list[list[tuple[float, float]]]:
    """The unbroken stretches of a line."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if x is None or y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _legend(named: Sequence[tuple[int, str]], kinds: Sequence[str]) -> tuple[list[str], float]:
    """Samples and names in as many rows as they need, and the height of those rows."""
    parts, left, row = [], _LEFT - 46, 0
    for number, name in named:
        width = 30 + 6.7 * len(name) + 12
        if left + width > _WIDTH and left > _LEFT:
            left, row = _LEFT - 46, row + 1
        y = _TOP + 4 + row * _LINE_HEIGHT
        if kinds[number] == "bars":
            parts.append(
                f'<rect x="{left:.1f}" y="{y - 9:.1f}" width="22" height="10" rx="2" fill="{colour(number)}"/>'
            )
        elif kinds[number] == "line":
            dashes = _DASHES[number % len(_DASHES)]
            parts.append(path([(left, y - 4), (left + 24, y - 4)], colour(number), dashes, 2))
        else:
            parts.append(point(left + 12, y - 4, number))
        parts.append(label(left + 30, y, name, "start"))
        left += width
    return parts, (row + 1) * _LINE_HEIGHT
