"""How far a figure may be trusted: bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Figures = npt.NDArray[np.float64]


def resamples(
    count: int, repeats: int = 1000, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Iterator[Rows]:
    """Row numbers of `count` cases, drawn again with replacement; a group's cases come together.

    The same seed, count and groups give the same draws: figures of two networks on the same cases are paired.
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        for _ in range(repeats):
            yield generator.integers(0, count, count)
        return
    if len(groups) != count:
        raise ValueError(f"groups must name one group for each of {count} cases, got {len(groups)}.")
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    rows = [np.array(each, dtype=np.intp) for each in members.values()]
    for _ in range(repeats):
        yield np.concatenate([rows[index] for index in generator.integers(0, len(rows), len(rows))])


def bootstrap_intervals(
    figures: Callable[[Rows], Sequence[float] | Figures],
    count: int,
    *,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> list[tuple[float, float] | None]:
    """Percentile intervals of every figure; None where fewer than half of the draws define it (NaN: undefined).

    Args:
        figures: the figures of the cases with these row numbers.
        count: how many cases there are.
        groups: whose each case is, so that a patient's images are drawn together.
    """
    if not 0 < level < 1 or repeats < 1:
        raise ValueError(f"level must be in (0, 1) and repeats at least 1, got {level} and {repeats}.")
    drawn = np.array([figures(rows) for rows in resamples(count, repeats, seed, groups)], dtype=np.float64)
    edges = ((1 - level) / 2, (1 + level) / 2)
    intervals: list[tuple[float, float] | None] = []
    for column in drawn.T:
        known = column[np.isfinite(column)]
        enough = 2 * len(known) >= repeats
        intervals.append((float(np.quantile(known, edges[0])), float(np.quantile(known, edges[1]))) if enough else None)
    return intervals
