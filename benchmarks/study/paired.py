"""Differences between two arms, paired: the same seeds, hospitals, labels and test patients on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cases import Cases

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Pair:
    """One model of each arm, and what they said of the same test images."""

    seed: int
    ours: Cases
    theirs: Cases

    def gap(self, rows: Rows | slice = slice(None)) -> float:
        """Ours minus theirs, mean over the classes that are defined on both sides."""
        gaps = self.ours.scores(rows) - self.theirs.scores(rows)
        return float(np.nanmean(gaps)) if np.isfinite(gaps).any() else float("nan")


@dataclass(frozen=True)
class Difference:
    mean: float
    low: float
    high: float
    seeds: int
    better_seeds: int


def difference(pairs: Sequence[Pair], comparisons: int = 1, repeats: int = 1000, seed: int = 0) -> Difference:
    """Mean gap with a 95 % interval, by a bootstrap over seeds and, within each seed, over test patients.

    Bonferroni: with several `comparisons` each interval is so wide that all of them hold together with 95 %.
    """
    by_seed: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_seed[pair.seed].append(pair)
    found = {number: float(np.nanmean([pair.gap() for pair in part])) for number, part in by_seed.items()}
    generator, seeds = np.random.default_rng(seed), sorted(by_seed)
    drawn = []
    for _ in range(repeats):
        chosen = generator.integers(0, len(seeds), len(seeds))
        drawn.append(np.nanmean([_resampled(by_seed[seeds[place]], generator) for place in chosen]))
    edge = 0.05 / comparisons / 2
    low, high = np.nanquantile(drawn, [edge, 1 - edge])
    better = sum(value > 0 for value in found.values())
    return Difference(float(np.mean(list(found.values()))), float(low), float(high), len(seeds), better)


def _resampled(pairs: Sequence[Pair], generator: np.random.Generator) -> float:
    """A seed's gap on patients drawn anew; models tested on the same patients share the draw."""
    draws: dict[tuple[str, ...], Rows] = {}
    gaps = []
    for pair in pairs:
        patients = tuple(pair.ours.patients)
        if patients != tuple(pair.theirs.patients):
            raise ValueError("the two sides were tested on different images")
        if patients not in draws:
            draws[patients] = draw_patients(pair.ours.patients, generator)
        gaps.append(pair.gap(draws[patients]))
    return float(np.nanmean(gaps))


def draw_patients(patients: npt.NDArray[np.str_], generator: np.random.Generator) -> Rows:
    """Rows of as many patients, drawn with replacement; a patient's images come together."""
    names, which = np.unique(patients, return_inverse=True)
    rows = [np.flatnonzero(which == number) for number in range(len(names))]
    return np.concatenate([rows[number] for number in generator.integers(0, len(names), len(names))])
