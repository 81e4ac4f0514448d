"""The network of the classification bundle: new, or as a trained model describes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msdino_monai.finetuning.classification.calibration import Calibration, read_calibration
from msdino_monai.finetuning.encoder import build_encoder, encoder_sizes
from msdino_monai.finetuning.model_card import ModelCard
from msdino_monai.networks.classifier import Classifier


def build_classifier(num_classes: int, dropout_rate: float = 0.0, **encoder: Any) -> Classifier:
    """A classifier on the encoder of these settings (see `build_encoder`)."""
    return Classifier(build_encoder(**encoder), num_classes, dropout_rate)


def describe_classifier(network: Classifier, task: str, classes: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """What goes beside the weights, so that `ClassifierCard` can build the network again."""
    return {"network": encoder_sizes(network.encoder), "task": task, "classes": list(classes), **more}


class ClassifierCard(ModelCard):
    """What a trained classifier says of itself."""

    def __init__(self, model: str | Path, metadata: str | Path) -> None:
        super().__init__(model, metadata, task="multi_label")
        self.img_size = int(self.sizes.get("img_size", 224))
        self.calibration: Calibration = read_calibration(self.model, self.task, self.classes)

    def network(self, fused_attention: bool = False) -> Classifier:
        """The network these weights belong to, with fresh weights."""
        sizes = {"img_size": self.img_size, **self.sizes}
        return build_classifier(len(self.classes), fused_attention=fused_attention, **sizes)
