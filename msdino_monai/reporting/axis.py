"""The axis of a chart: from values to places on the sheet, and which values to name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` between two places on the sheet."""

    low: float
    high: float
    start: float
    end: float
    scale: Scale
    whole: bool = False  # steps between the named values are whole numbers

    def place(self, value: float) -> float | None:
        if not math.isfinite(value) or (self.scale == "log" and value <= 0):
            return None
        if self.scale == "log":
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if self.scale == "log":
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / 7))
            values = [10.0**power for power in range(first, last + 1, every)]
            return [(value, short(value)) for value in (values if len(values) > 1 else [self.low, self.high])]
        step = _round_step((self.high - self.low) / 5)
        step = max(step, 1.0) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(number * step, short(number * step, digits)) for number in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, near what was asked for."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.7)


def widened(low: float, high: float, scale: Scale, share: float) -> tuple[float, float]:
    """A range that is not empty, with a little room at both ends."""
    if scale == "log":
        if low == high:
            return low / 2, high * 2
        room = (high / low) ** share
        return low / room, high * room
    if low == high:
        return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    return low - share * (high - low), high + share * (high - low)


def short(value: float, digits: int | None = None) -> str:
    """A number with few characters: 12 000 becomes 12k."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    if digits is not None and (digits > 0 or value == round(value)) and digits < 5:
        return f"{value:.{digits}f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
