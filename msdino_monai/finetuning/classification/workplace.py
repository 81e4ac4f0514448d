"""What the classification bundle does around a training: checks first, calibration and report last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn

from msdino_monai.distributed import rank
from msdino_monai.errors import UserError
from msdino_monai.finetuning.best import BestWeights
from msdino_monai.finetuning.classification.calibration import fit_calibration
from msdino_monai.finetuning.classification.evaluation import report
from msdino_monai.finetuning.classification.loss import MultiClassLoss, MultiLabelLoss, class_weights
from msdino_monai.finetuning.classification.network import ClassifierCard
from msdino_monai.finetuning.classification.predictions import Cases, Predictions


def loss_for(task: str, weights: str | Sequence[float] | None, labels: torch.Tensor, num_classes: int) -> nn.Module:
    """The loss of a task, weighted as asked for."""
    chosen = class_weights(weights, labels, num_classes, task)
    return MultiLabelLoss(chosen) if task == "multi_label" else MultiClassLoss(chosen)


def finish_training(
    trainer: Engine,
    evaluator: Any,
    best: BestWeights,
    predictions: Predictions,
    folder: str | Path,
    *,
    specificity: float = 0.9,
    bootstrap_repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Validate the best weights again, fit and store the calibration, and report; the report is on validation data.

    Its thresholds and temperature were chosen on the same images: `evaluate` on the test section is the fair one.
    """
    best.finish(int(trainer.state.epoch))
    evaluator.run(global_epoch=max(1, best.epoch))
    cases = _cases_of(predictions)
    if rank() > 0:
        return {}
    calibration = fit_calibration(predictions.task, predictions.classes, cases.logits, cases.labels)
    calibration.save(best.model)
    about = {
        "section": "validation (thresholds, temperature and the epoch were chosen on it)",
        "chosen_epoch": best.epoch,
        "model": str(best.model),
    }
    return report(
        folder,
        cases,
        calibration,
        specificity=specificity,
        bootstrap_repeats=bootstrap_repeats,
        seed=seed,
        about=about,
    )


def evaluate(
    evaluator: Any, predictions: Predictions, card: ClassifierCard, folder: str | Path, section: str, **settings: Any
) -> dict[str, Any]:
    """Run an evaluation and report with the model's own calibration; `settings` are those of `report`."""
    evaluator.run()
    cases = _cases_of(predictions)
    if rank() > 0:
        return {}
    about = {
        "section": section,
        "model": str(card.model),
        "model_sha256": card.sha256(),
        "bundle_version": card.bundle_version,
        "thresholds_fitted": card.calibration.fitted,
    }
    return report(folder, cases, card.calibration, about=about, **settings)


def _cases_of(predictions: Predictions) -> Cases:
    if predictions.cases is None:
        raise UserError("nothing was evaluated; check the datalist's validation section.")
    return predictions.cases
