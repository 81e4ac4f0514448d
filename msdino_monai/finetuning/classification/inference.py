"""What a classifier says of radiographs nobody has labelled: tables, and pictures of where it looked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import MapTransform

from msdino_monai.distributed import barrier, gather_objects, rank
from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.calibration import Calibration, CurrentCalibration
from msdino_monai.finetuning.classification.network import ClassifierCard
from msdino_monai.finetuning.explanation import relevance, write_overlay
from msdino_monai.finetuning.report import write_csv, write_json
from msdino_monai.finetuning.workplace import file_names
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.networks.classifier import Classifier

_log = logging.getLogger(__name__)


class Probabilitiesd(MapTransform):
    """Logits (C,) to calibrated probabilities."""

    def __init__(
        self, keys: KeysCollection, calibration: Calibration | CurrentCalibration, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.calibration = calibration

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        changed = dict(data)
        for key in self.key_iterator(changed):
            changed[key] = self.calibration.probabilities(torch.as_tensor(changed[key]))
        return changed


class PredictionWriter:
    """Writes `predictions.csv` (a row for each image and class) and `predictions.json`; explains what is positive.

    Args:
        output_dir: where to.
        card: what the model is; its classes, thresholds, hash and the bundle's version go with every prediction.
        quarantine: emptied when a run begins.
        network: for explanations; None writes none.
    """

    def __init__(
        self, output_dir: str | Path, card: ClassifierCard, quarantine: Quarantine, network: Classifier | None = None
    ) -> None:
        self.output_dir, self.card, self.quarantine = Path(str(output_dir)).expanduser(), card, quarantine
        self.network = network
        self._found: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self, _: Engine) -> None:
        self._found = []
        if not self.card.calibration.fitted:
            _log.warning("No calibration lies beside %s: thresholds are 0.5.", self.card.model)
        if rank() == 0:
            self.quarantine.clear()
        barrier()

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            probabilities = torch.as_tensor(output["pred"]).double().cpu().numpy()
            called = self.card.calibration.positives(probabilities[None])[0]
            entry: dict[str, Any] = {
                "file": str(item["file"]),
                "probabilities": dict(zip(self.card.classes, probabilities.tolist(), strict=True)),
                "positive": [name for name, each in zip(self.card.classes, called, strict=True) if each],
            }
            if self.network is not None:
                entry["explanations"] = self._explain(item["image"], entry["file"], np.flatnonzero(called).tolist())
            self._found.append(entry)

    def _explain(self, image: torch.Tensor, file: str, classes: list[int]) -> dict[str, str]:
        """One overlay for each class, on the image as the network saw it; returns their paths in `output_dir`."""
        if not classes or self.network is None:
            return {}
        device = next(self.network.parameters()).device
        pixels = torch.as_tensor(image).float().to(device)
        images = pixels.expand(len(classes), -1, -1, -1)
        heats = relevance(self.network, images, torch.tensor(classes, device=device))
        written = {}
        for heat, number in zip(heats, classes, strict=True):
            name = self.card.classes[number]
            path = f"explanations/{_file_name(file)}_{file_names(self.card.classes)[number]}.png"
            write_overlay(self.output_dir / path, pixels.cpu(), heat.cpu())
            written[name] = path
        return written

    def _write(self, _: Engine) -> None:
        entries = sorted(gather_objects(self._found), key=lambda entry: str(entry["file"]))
        if rank() > 0:
            return
        if not entries:
            raise UserError(f"no image could be used; {self.quarantine.quarantined} says why.")
        calibration = self.card.calibration
        thresholds: dict[str, float | None] = dict(zip(calibration.classes, calibration.thresholds, strict=True))
        if self.card.task == "multi_class":
            thresholds = dict.fromkeys(thresholds)
        about = {"model_sha256": self.card.sha256(), "bundle_version": self.card.bundle_version}
        rows = [
            {
                "file": entry["file"],
                "finding": name,
                "probability": probability,
                "threshold": thresholds[name],
                "positive": int(name in entry["positive"]),
                **about,
            }
            for entry in entries
            for name, probability in entry["probabilities"].items()
        ]
        write_csv(self.output_dir / "predictions.csv", rows)
        content = {
            "model": str(self.card.model),
            **about,
            "task": self.card.task,
            "temperature": calibration.temperature,
            "thresholds": thresholds,
            "thresholds_fitted": calibration.fitted,
            "note": "Research software, not a medical device.",
            "predictions": entries,
        }
        write_json(self.output_dir / "predictions.json", content)
        _log.info("%d images: %s", len(entries), self.output_dir / "predictions.csv")


def _file_name(file: str) -> str:
    """A name that tells which file it was, and that no two files share."""
    (safe,) = file_names([Path(file).with_suffix("").as_posix()])
    return f"{safe}_{hashlib.sha256(file.encode()).hexdigest()[:6]}"
