"""The network of the classification bundle: new, or as a trained model describes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai.handlers import CheckpointLoader
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.calibration import Calibration, read_calibration
from msdino_monai.finetuning.description import beside, load_network, read_description
from msdino_monai.finetuning.encoder import build_encoder, encoder_sizes
from msdino_monai.networks.classifier import Classifier
from msdino_monai.vault.atomic import hash_file


def build_classifier(num_classes: int, dropout_rate: float = 0.0, **encoder: Any) -> Classifier:
    """A classifier on the encoder of these settings (see `build_encoder`)."""
    return Classifier(build_encoder(**encoder), num_classes, dropout_rate)


def describe_classifier(network: Classifier, task: str, classes: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """What goes beside the weights, so that `ModelCard` can build the network again."""
    return {"network": encoder_sizes(network.encoder), "task": task, "classes": list(classes), **more}


class ModelCard:
    """What stands beside a trained model; where nothing does, the bundle's metadata and ViT-S/16.

    Args:
        model: the weights.
        metadata: the bundle's metadata.json: its version, and the classes where no model says.
    """

    def __init__(self, model: str | Path, metadata: str | Path) -> None:
        self.model = Path(str(model)).expanduser()
        content = json.loads(Path(str(metadata)).read_text(encoding="utf-8"))
        self.bundle_version = str(content["version"])
        said = read_description(self.model)
        channels = content["network_data_format"]["outputs"]["pred"]["channel_def"]
        self.sizes: dict[str, Any] = dict(said.get("network", {}))
        self.task = str(said.get("task", "multi_label"))
        self.classes = tuple(said.get("classes", [channels[number] for number in sorted(channels, key=int)]))
        self.img_size = int(self.sizes.get("img_size", 224))
        self.calibration: Calibration = read_calibration(self.model, self.task, self.classes)

    def network(self, fused_attention: bool = False) -> Classifier:
        """The network these weights belong to, with fresh weights."""
        sizes = {"img_size": self.img_size, **self.sizes}
        return build_classifier(len(self.classes), fused_attention=fused_attention, **sizes)

    def check(self) -> None:
        """Refuse to predict without a model, or with one that does not say what it is."""
        if not self.model.is_file():
            raise UserError(f"there is no model {self.model}; train one, or name its file with --model.")
        if not self.sizes:
            raise UserError(f"{beside(self.model, 'network')} is missing; copy it from where {self.model} was trained.")

    def sha256(self) -> str:
        return hash_file(self.model.resolve())


class ModelCheckpointLoader(CheckpointLoader):
    """MONAI's loader, with one line for what does not fit; a federation that brings weights disables it by its name."""

    def __init__(self, model: str | Path, network: nn.Module) -> None:
        super().__init__(load_path=str(model), load_dict={"network": network})
        self.model, self.network = model, network

    def __call__(self, _: Any) -> None:
        load_network(self.network, self.model)
