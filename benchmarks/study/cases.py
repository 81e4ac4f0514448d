"""What a model said of test images, hospital by hospital, and the scores of that."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from msdino_monai.finetuning.classification.metrics import roc_auc

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cases:
    """values: (n, C), probabilities, or Dice where `truth` is None. truth: (n, C), 1, 0, or NaN where nobody knows."""

    patients: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    values: Numbers
    truth: Numbers | None = None

    def scores(self, rows: npt.NDArray[np.intp] | slice = slice(None)) -> Numbers:
        """ROC AUC of each finding, or the mean Dice of each class where there is something to draw; else NaN."""
        values = self.values[rows]
        if self.truth is None:
            counts = np.isfinite(values).sum(axis=0)
            return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)
        truth = self.truth[rows]
        known = np.isfinite(truth)
        return np.array([roc_auc(values[k, c], truth[k, c] >= 0.5) for c, k in enumerate(known.T)])


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
    """Over the classes that are defined."""
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else math.nan
