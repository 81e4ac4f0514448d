"""What a classifier says of labelled images, from all ranks, and how good that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from msdino_monai.distributed import gather_objects
from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.metrics import (
    Scores,
    average_precision,
    mean_of_defined,
    per_class,
    roc_auc,
)
from msdino_monai.images.quarantine import Quarantine


@dataclass(frozen=True)
class Cases:
    """Logits and labels (n, C); labels are 1, 0, or below 0 where nobody knows. Sorted by file."""

    files: tuple[str, ...]
    patients: tuple[str, ...]
    logits: Scores
    labels: Scores

    @property
    def groups(self) -> list[str]:
        """Whose each case is; an image without a patient is a patient of its own."""
        return [patient or f"\0{file}" for patient, file in zip(self.patients, self.files, strict=True)]


class Predictions:
    """Collects logits and labels during an evaluation; at its end they are in `cases`, and metrics in the state.

    Metrics: `mean_auc` and `mean_average_precision` over the classes that have them, `loss`, and `auc_<class>`. They
    are NaN where the labels leave them undefined.

    Args:
        classes: their names.
        task: `multi_label` or `multi_class`.
        loss_function: of logits and labels; None leaves `loss` out.
        quarantine: says why, if no image was usable.
    """

    def __init__(
        self,
        classes: Sequence[str],
        task: str,
        loss_function: nn.Module | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.classes, self.task, self.loss_function, self.quarantine = tuple(classes), task, loss_function, quarantine
        self._rows: list[tuple[str, str, list[float], list[float]]] = []
        self.cases: Cases | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarise)

    def _reset(self, _: Engine) -> None:
        self._rows = []
        if self.quarantine is not None:
            self.quarantine.quarantined.parent.mkdir(parents=True, exist_ok=True)

    def _collect(self, engine: Engine) -> None:
        batch, logits = engine.state.batch, engine.state.output["pred"].detach().double().cpu()
        labels = self._hot(torch.as_tensor(batch["label"]).cpu())
        patients = batch.get("patient", [""] * len(labels))  # MONAI Label's images have none
        self._rows += zip(batch["file"], patients, logits.tolist(), labels.tolist(), strict=True)

    def _hot(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (B, C); class numbers (B,) become ones among zeros, and unknown ones stay below 0."""
        if self.task == "multi_label":
            return labels.double()
        hot = torch.nn.functional.one_hot(labels.long().clamp_min(0), len(self.classes)).double()
        return torch.where((labels >= 0)[:, None], hot, -1.0)

    def _summarise(self, engine: Engine) -> None:
        rows = sorted({row[0]: row for row in gather_objects(self._rows)}.values())
        if not rows:
            why = "" if self.quarantine is None else f"; {self.quarantine.quarantined} says why"
            raise UserError(f"no image could be evaluated{why}.")
        files, patients, logits, labels = zip(*rows, strict=True)
        self.cases = Cases(files, patients, np.array(logits), np.array(labels))
        scores = self.cases.logits
        if self.task == "multi_class":
            scores = torch.from_numpy(scores).softmax(dim=-1).numpy()
        aucs = per_class(roc_auc, scores, self.cases.labels)
        precisions = per_class(average_precision, scores, self.cases.labels)
        engine.state.metrics |= {
            "mean_auc": mean_of_defined(aucs),
            "mean_average_precision": mean_of_defined(precisions),
            **{f"auc_{name}": auc for name, auc in zip(self.classes, aucs, strict=True)},
        }
        if self.loss_function is not None:
            engine.state.metrics["loss"] = self._loss(self.cases)

    @torch.no_grad()
    def _loss(self, cases: Cases) -> float:
        device = next((buffer.device for buffer in self.loss_function.buffers()), torch.device("cpu"))  # type: ignore[union-attr]
        logits, labels = (torch.from_numpy(each).float().to(device) for each in (cases.logits, cases.labels))
        if self.task == "multi_class":
            labels = torch.where(labels[:, 0] >= 0, labels.argmax(dim=1), -1)
        return float(self.loss_function(logits, labels))  # type: ignore[misc]
