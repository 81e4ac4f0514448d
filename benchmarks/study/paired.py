"""Figures with intervals: of an arm, and of differences between two arms, paired.

Paired means the same seeds, hospitals, labels and test patients on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cases import Cases, mean_of, means_of

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Single:
    """One model, and what it said of test images."""

    seed: int
    cases: Cases

    def figures(self, counts: Numbers) -> Numbers:
        """Mean over the classes that are defined, (R,), for images counted (R, n) times."""
        return means_of(self.cases.weighted(counts))

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

    def figures(self, counts: Numbers) -> Numbers:
        """Ours minus theirs, mean over the classes that are defined on both sides."""
        return means_of(self.ours.weighted(counts) - self.theirs.weighted(counts))

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

    Where all seeds were tested on the same patients (hospitals of one's own), they share the draws of patients, too.

    Bonferroni: with several `comparisons` each interval is so wide that all of them hold together with 95 %.
    """
    by_seed: dict[int, list[Single | Pair]] = defaultdict(list)
    for model in models:
        by_seed[model.seed].append(model)
    parts = [by_seed[number] for number in sorted(by_seed)]
    values = [mean_of(np.array([float(model.figures(_once(model))[0]) for model in part])) for part in parts]
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(parts), (repeats, len(parts)))
    drawn = np.full(chosen.shape, np.nan)
    draws: dict[tuple[str, ...], Numbers] = {}
    shared = len(parts) > 1 and all(_tested_on(part) == _tested_on(parts[0]) for part in parts)
    for number, part in enumerate(parts):
        places = chosen == number
        if shared:
            drawn[places] = _resampled(part, repeats, generator, draws)[places.nonzero()[0]]
        else:
            drawn[places] = _resampled(part, int(places.sum()), generator, {})
    means = means_of(drawn)
    edge = 0.05 / comparisons / 2
    low, high = np.nanquantile(means, [edge, 1 - edge]) if np.isfinite(means).any() else (np.nan, np.nan)
    return Estimate(mean_of(np.array(values)), float(low), float(high), tuple(values))


def _tested_on(models: Sequence[Single | Pair]) -> set[tuple[str, ...]]:
    return {tuple(model.patients) for model in models}


def _once(model: Single | Pair) -> Numbers:
    return np.ones((1, len(model.patients)))


def _resampled(
    models: Sequence[Single | Pair], repeats: int, generator: np.random.Generator, draws: dict[tuple[str, ...], Numbers]
) -> Numbers:
    """A seed's figure (repeats,) on patients drawn anew; models tested on the same patients share the `draws`."""
    found = []
    for model in models:
        patients = tuple(model.patients)
        if patients not in draws:
            draws[patients] = draw_patients(model.patients, repeats, generator)
        found.append(model.figures(draws[patients]))
    return means_of(np.stack(found, axis=1))


def draw_patients(patients: npt.NDArray[np.str_], repeats: int, generator: np.random.Generator) -> Numbers:
    """How often each image (repeats, n) is there where patients are drawn with replacement, with all their images."""
    names, which = np.unique(patients, return_inverse=True)
    times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repeats)
    return times[:, which].astype(np.float64)
