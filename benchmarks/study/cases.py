"""What a model said of test images, hospital by hospital, and the scores of that."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cases:
    """values: (n, C), probabilities, or Dice where `truth` is None. truth: (n, C), 1, 0, or NaN where nobody knows."""

    patients: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    values: Numbers
    truth: Numbers | None = None

    def scores(self) -> Numbers:
        """ROC AUC of each finding, or the mean Dice of each class where there is something to draw; else NaN."""
        return self.weighted(np.ones((1, len(self.values))))[0]

    def only(self, name: str) -> Cases:
        """One class alone."""
        column = [self.classes.index(name)]
        truth = None if self.truth is None else self.truth[:, column]
        return replace(self, classes=(name,), values=self.values[:, column], truth=truth)

    def weighted(self, counts: Numbers) -> Numbers:
        """The same (R, C) for images that stand there several times, or not at all: counts (R, n)."""
        if self.truth is None:
            return _ratio(counts @ np.nan_to_num(self.values), counts @ np.isfinite(self.values))
        return np.stack([_auc(*column, counts) for column in zip(self.values.T, self.truth.T, strict=True)], axis=1)


def _auc(values: Numbers, truth: Numbers, counts: Numbers) -> Numbers:
    """Share of (positive, negative) pairs in the right order, ties half, for each row of counts (R, n)."""
    positive, negative = truth >= 0.5, truth < 0.5  # NaN is neither
    better = values[positive][:, None] - values[negative][None]
    wins = (better > 0) + 0.5 * (better == 0)
    ours, theirs = counts[:, positive], counts[:, negative]
    return _ratio(((ours @ wins) * theirs).sum(1), ours.sum(1) * theirs.sum(1))


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def read_cases(path: Path) -> dict[str, Cases]:
    """The table that an evaluation wrote; a file's first folder is its hospital."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    parts: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in lines:
        parts[line["file"].partition("/")[0]].append(line)
    return {site: (_masks if "dice" in part[0] else _findings)(part) for site, part in parts.items()}


def _findings(lines: Sequence[Mapping[str, str]]) -> Cases:
    classes = tuple(name.removesuffix(" label") for name in lines[0] if name.endswith(" label"))
    truth = np.array([[_number(line[f"{name} label"]) for name in classes] for line in lines])
    values = np.array([[_number(line[f"{name} probability"]) for name in classes] for line in lines])
    return Cases(_patients(lines), classes, values, np.where(truth < 0, np.nan, truth))


def _masks(lines: Sequence[Mapping[str, str]]) -> Cases:
    """One line for each image and class; an image where a class neither is nor was drawn has no Dice."""
    classes = tuple(dict.fromkeys(line["class"] for line in lines))
    files = list(dict.fromkeys(line["file"] for line in lines))
    values = np.full((len(files), len(classes)), np.nan)
    row_of = {file: row for row, file in enumerate(files)}
    for line in lines:
        values[row_of[line["file"]], classes.index(line["class"])] = _number(line["dice"])
    first = {line["file"]: line for line in reversed(lines)}
    return Cases(_patients([first[file] for file in files]), classes, values)


def _patients(lines: Sequence[Mapping[str, str]]) -> npt.NDArray[np.str_]:
    return np.array([line["patient"] or line["file"] for line in lines])


def _number(text: str) -> float:
    return float(text) if text else math.nan


def mean_of(scores: Numbers) -> float:
    """Over those that are defined."""
    return float(means_of(scores[None])[0])


def means_of(scores: Numbers) -> Numbers:
    """Of every row (R, C), over those that are defined."""
    return _ratio(np.nan_to_num(scores).sum(1), np.isfinite(scores).sum(1))
