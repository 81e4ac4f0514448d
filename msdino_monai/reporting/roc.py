"""ROC curves with their bands, from the cases an evaluation has written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.reporting.runs import number

Values = npt.NDArray[np.float64]
GRID = np.linspace(0, 1, 101)
FEWEST = 8  # images, or patients, from which a curve says anything
_REPEATS, _LEVEL = 500, 0.95


@dataclass(frozen=True)
class Scored:
    """What was said of one class: scores, truths, and whose image it was. Images with an unknown label are left out."""

    scores: Values
    truth: npt.NDArray[np.bool_]
    patients: tuple[str, ...]

    @property
    def defined(self) -> bool:
        return bool(self.truth.any() and not self.truth.all())


def scored(rows: Sequence[dict[str, str]], name: str) -> Scored:
    """The cases of one class from the rows of `cases.csv`."""
    known = [row for row in rows if number(row.get(f"{name} label")) >= 0]
    return Scored(
        scores=np.array([number(row[f"{name} probability"]) for row in known]),
        truth=np.array([number(row[f"{name} label"]) >= 0.5 for row in known], dtype=bool),
        patients=tuple(row.get("patient") or f"\0{row['file']}" for row in known),
    )


def classes_of(rows: Sequence[dict[str, str]]) -> list[str]:
    return [name.removesuffix(" probability") for name in (rows[0] if rows else ()) if name.endswith(" probability")]


def roc(scores: Values, truth: npt.NDArray[np.bool_]) -> tuple[Values, Values]:
    """False and true positive rates from (0, 0) to (1, 1); equal scores are one step, so ties gain nothing."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(truth[order])[ends] / max(int(truth.sum()), 1)
    false = np.cumsum(~truth[order])[ends] / max(int((~truth).sum()), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def area(scores: Values, truth: npt.NDArray[np.bool_]) -> float:
    false, true = roc(scores, truth)
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def at(grid: Values, false: Values, true: Values) -> Values:
    """Sensitivity at false positive rates; where the curve goes straight up, its upper end (numpy takes the last)."""
    return np.asarray(np.interp(grid, false, true))


def band(case: Scored, seed: int = 0, repeats: int = _REPEATS) -> tuple[Values, Values] | None:
    """95 % of the sensitivities at each place of `GRID`, over patients drawn again; none of fewer than `FEWEST`.

    Draws that hold one kind of label have no curve and do not count.
    """
    names, owner = np.unique(np.array(case.patients, dtype=object).astype(str), return_inverse=True)
    if len(names) < FEWEST or not case.defined:
        return None
    rows_of = [np.flatnonzero(owner == place) for place in range(len(names))]
    generator = np.random.default_rng(seed)
    curves = []
    for _ in range(repeats):
        rows = np.concatenate([rows_of[place] for place in generator.integers(0, len(names), len(names))])
        truth = case.truth[rows]
        if truth.any() and not truth.all():
            curves.append(at(GRID, *roc(case.scores[rows], truth)))
    if 2 * len(curves) < repeats:
        return None
    edge = (1 - _LEVEL) / 2
    low, high = np.quantile(np.stack(curves), [edge, 1 - edge], axis=0)
    return low, high
