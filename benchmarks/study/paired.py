"""Figures with intervals: of an arm, and of differences between two arms, paired.

Paired means the same seeds, hospitals, labels and test patients on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cases import Cases, mean_of

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Single:
    """One model, and what it said of test images."""

    seed: int
    cases: Cases

    def figure(self, rows: Rows | slice = slice(None)) -> float:
        """Mean over the classes that are defined."""
        return mean_of(self.cases.scores(rows))

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        return self.cases.patients


@dataclass(frozen=True)
class Pair:
    """One model of each arm, and what they said of the same test images."""

    seed: int
    ours: Cases
    theirs: Cases

    def __post_init__(self) -> None:
        if tuple(self.ours.patients) != tuple(self.theirs.patients):
            raise ValueError("the two sides were tested on different images")

    def figure(self, rows: Rows | slice = slice(None)) -> float:
        """Ours minus theirs, mean over the classes that are defined on both sides."""
        return mean_of(self.ours.scores(rows) - self.theirs.scores(rows))

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        return self.ours.patients


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval; `values` are the seeds'."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @property
    def above(self) -> int:
        """Seeds above zero."""
        return sum(value > 0 for value in self.values)


def estimate(
    models: Sequence[Single] | Sequence[Pair], comparisons: int = 1, repeats: int = 1000, seed: int = 0
) -> Estimate:
    """The mean with a 95 % interval, by a bootstrap over seeds and, within each seed, over test patients.

    Bonferroni: with several `comparisons` each interval is so wide that all of them hold together with 95 %.
    """
    by_seed: dict[int, list[Single | Pair]] = defaultdict(list)
    for model in models:
        by_seed[model.seed].append(model)
    parts = [by_seed[number] for number in sorted(by_seed)]
    values = tuple(_mean([model.figure() for model in part]) for part in parts)
    generator = np.random.default_rng(seed)
    drawn = [
        _mean([_resampled(parts[place], generator) for place in generator.integers(0, len(parts), len(parts))])
        for _ in range(repeats)
    ]
    edge = 0.05 / comparisons / 2
    low, high = np.nanquantile(drawn, [edge, 1 - edge]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Estimate(_mean(values), float(low), float(high), values)


def _resampled(models: Sequence[Single | Pair], generator: np.random.Generator) -> float:
    """A seed's figure on patients drawn anew; models tested on the same patients share the draw."""
    draws: dict[tuple[str, ...], Rows] = {}
    found = []
    for model in models:
        patients = tuple(model.patients)
        if patients not in draws:
            draws[patients] = draw_patients(model.patients, generator)
        found.append(model.figure(draws[patients]))
    return _mean(found)


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined."""
    return mean_of(np.asarray(values, dtype=np.float64))


def draw_patients(patients: npt.NDArray[np.str_], generator: np.random.Generator) -> Rows:
    """Rows of as many patients, drawn with replacement; a patient's images come together."""
    names, which = np.unique(patients, return_inverse=True)
    rows = [np.flatnonzero(which == number) for number in range(len(names))]
    return np.concatenate([rows[number] for number in generator.integers(0, len(names), len(names))])
