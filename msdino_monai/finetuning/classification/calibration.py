"""From logits to probabilities and decisions: fitted on validation data, stored beside the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.metrics import Scores, per_class, youden_threshold
from msdino_monai.finetuning.description import beside, read_description
from msdino_monai.finetuning.report import write_json

TASKS = ("multi_label", "multi_class")


@dataclass(frozen=True)
class Calibration:
    """One temperature for all classes (arXiv 1706.04599), and from which probability on a class is called positive.

    Args:
        task: `multi_label` (sigmoid) or `multi_class` (softmax; the likeliest class is called, thresholds are unused).
        thresholds: of the calibrated probabilities.
        undefined: classes whose threshold the validation data could not tell; theirs is 0.5.
        fitted: whether validation data said so, or these are defaults.
    """

    task: str
    classes: tuple[str, ...]
    temperature: float
    thresholds: tuple[float, ...]
    undefined: tuple[str, ...] = ()
    fitted: bool = True

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        scaled = logits.float() / self.temperature
        return scaled.sigmoid() if self.task == "multi_label" else scaled.softmax(dim=-1)

    def positives(self, probabilities: Scores) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which classes (n, C) are called."""
        if self.task == "multi_label":
            return np.asarray(probabilities >= np.asarray(self.thresholds))
        return np.asarray(np.arange(len(self.classes)) == probabilities.argmax(axis=1, keepdims=True))

    def save(self, model: str | Path) -> Path:
        return write_json(
            beside(model, "calibration"),
            {
                "task": self.task,
                "temperature": self.temperature,
                "thresholds": dict(zip(self.classes, self.thresholds, strict=True)),
                "undefined": self.undefined,
                "chosen_by": "validation data: temperature by likelihood, thresholds by Youden's index",
            },
        )


def default_calibration(task: str, classes: Sequence[str]) -> Calibration:
    """Nothing fitted: temperature 1, thresholds 0.5."""
    return Calibration(task, tuple(classes), 1.0, (0.5,) * len(classes), fitted=False)


def read_calibration(model: str | Path, task: str, classes: Sequence[str]) -> Calibration:
    """What stands beside a model, or the defaults where nothing does."""
    content = read_description(model, "calibration")
    if not content:
        return default_calibration(task, classes)
    path = beside(model, "calibration")
    try:
        thresholds = tuple(float(content["thresholds"][name]) for name in classes)
        temperature = float(content["temperature"])
        undefined = tuple(map(str, content.get("undefined", ())))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks {error}; copy it again from where the model was trained.") from error
    if content.get("task") != task or not temperature > 0:
        raise UserError(f"{path} belongs to another model; copy it again from where the model was trained.")
    return Calibration(task, tuple(classes), temperature, thresholds, undefined)


class CurrentCalibration:
    """The calibration beside a model as it is now: a server stays up while a training renews the model.

    Args:
        model: the weights.
        task: see `Calibration`.
        classes: their names.
    """

    def __init__(self, model: str | Path, task: str, classes: Sequence[str]) -> None:
        self.model, self.task, self.classes = model, task, tuple(classes)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return read_calibration(self.model, self.task, self.classes).probabilities(logits)


def fit_calibration(task: str, classes: Sequence[str], logits: Scores, labels: Scores) -> Calibration:
    """Temperature by likelihood, thresholds by Youden's index on the calibrated probabilities."""
    temperature = fit_temperature(task, torch.from_numpy(logits), torch.from_numpy(labels))
    unset = Calibration(task, tuple(classes), temperature, (0.5,) * len(classes))
    probabilities = unset.probabilities(torch.from_numpy(logits)).double().numpy()
    chosen = per_class(youden_threshold, probabilities, labels)
    return Calibration(
        task,
        tuple(classes),
        temperature,
        tuple(threshold if math.isfinite(threshold) else 0.5 for threshold in chosen),
        tuple(name for name, threshold in zip(classes, chosen, strict=True) if not math.isfinite(threshold)),
    )


def fit_temperature(task: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature in [0.05, 20] with the largest likelihood of the known labels (n, C), found by golden section."""
    known = labels >= 0
    if not bool(known.any()):
        return 1.0
    logits, wanted = logits.double(), labels.clamp_min(0).double()

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if task == "multi_label":
            return float(F.binary_cross_entropy_with_logits(scaled[known], wanted[known]))
        rows = known.all(dim=1)
        return float(-(scaled[rows].log_softmax(dim=-1) * wanted[rows]).sum(dim=1).mean())

    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(60):  # one minimum: the loss is convex in 1 / temperature
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)
