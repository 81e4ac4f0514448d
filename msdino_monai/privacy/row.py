"""One row of the audit: who attacked what, knowing what, and how well it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.plain import plain
from msdino_monai.privacy.knowledge import Knowledge

Integers = npt.NDArray[np.intp]

_REPEATS = 1000  # of the bootstrap
_SLOW_REPEATS = 200  # where a figure is no mean
_FEWEST = 3  # images an interval is drawn from
_DIGITS = 6  # that are kept of a figure


@dataclass(frozen=True)
class Row:
    """A figure with its 95 % interval over images and what guessing gives.

    Args:
        attack: who attacked, as the report names it.
        metric: what was counted.
        knowledge: what the attacker knows and has.
        figure: over all images.
        interval: of the figure, over images drawn again; none where there are too few.
        chance: what the same metric gives an attacker who guesses.
        n: images, or queries.
        worst: the image for which the attack went best.
        values: of each image, where the figure is their mean.
    """

    attack: str
    metric: str
    knowledge: Knowledge
    figure: float
    interval: tuple[float, float] | None
    chance: float
    n: int
    seed: int
    worst: float | None = None
    values: tuple[float, ...] = field(default=(), repr=False)

    def describe(self) -> dict[str, Any]:
        """As JSON holds it."""
        page = {name: value for name, value in vars(self).items() if name not in ("knowledge", "values")}
        numbers = ("figure", "chance", "worst")
        rounded = {name: round(page[name], _DIGITS) for name in numbers if page[name] is not None}
        interval = None if self.interval is None else [round(edge, _DIGITS) for edge in self.interval]
        return dict(plain({**page, **rounded, "interval": interval, "knows": self.knowledge.describe()}))


def row_of_values(
    attack: str,
    metric: str,
    knowledge: Knowledge,
    values: Sequence[float],
    chance: Sequence[float] | float,
    *,
    seed: int = 0,
    higher_is_worse: bool = True,
) -> Row:
    """The mean over images; what is not defined for an image (NaN) does not count."""
    known = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    return Row(
        attack=attack,
        metric=metric,
        knowledge=knowledge,
        figure=float(known.mean()) if len(known) else float("nan"),
        interval=interval_of_mean(known, seed),
        chance=float(np.nanmean(np.asarray(chance, dtype=np.float64))),
        n=len(known),
        seed=seed,
        worst=float(known.max() if higher_is_worse else known.min()) if len(known) else None,
        values=tuple(float(value) for value in values),
    )


def interval_of_mean(values: npt.NDArray[np.floating[Any]], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over images drawn again; none of fewer than 3 images."""
    if len(values) < _FEWEST:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(values), (_REPEATS, len(values)))
    return _percentiles(np.asarray(values)[drawn].mean(1))


def interval_of(figure: Callable[[Integers], float], count: int, seed: int = 0) -> tuple[float, float] | None:
    """The same of any figure over `count` images; none where few draws define it (NaN: undefined)."""
    if count < _FEWEST:
        return None
    generator = np.random.default_rng(seed)
    drawn = np.array([figure(generator.integers(0, count, count)) for _ in range(_SLOW_REPEATS)])
    known = drawn[np.isfinite(drawn)]
    return _percentiles(known) if 2 * len(known) >= _SLOW_REPEATS else None


def _percentiles(drawn: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
