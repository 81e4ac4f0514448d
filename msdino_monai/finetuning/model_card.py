"""What stands beside a trained model, and how a network gets its weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from monai.handlers import CheckpointLoader
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.finetuning.description import beside, load_network, read_description
from msdino_monai.vault.atomic import hash_file


class ModelCard:
    """What a trained model says of itself; where nothing does, the bundle's metadata and the network's own sizes.

    Args:
        model: the weights.
        metadata: the bundle's metadata.json: its version, and the classes where no model says.
        task: where no model says.
        first_channel: of the metadata's channels the first that is a class; 1 where 0 is the background.
    """

    def __init__(self, model: str | Path, metadata: str | Path, task: str, first_channel: int = 0) -> None:
        self.model = Path(str(model)).expanduser()
        self.configs = Path(str(metadata)).parent
        if not Path(str(metadata)).is_file():
            advice = "give bundle_root, the bundle's folder (to MONAI's load as args_file={'bundle_root': ...})"
            raise UserError(f"there is no {metadata}; {advice}.")
        content = json.loads(Path(str(metadata)).read_text(encoding="utf-8"))
        self.bundle_version = str(content["version"])
        self.said = read_description(self.model)
        channels = content["network_data_format"]["outputs"]["pred"]["channel_def"]
        named = [channels[number] for number in sorted(channels, key=int)[first_channel:]]
        self.sizes: dict[str, Any] = dict(self.said.get("network", {}))
        self.task = str(self.said.get("task", task))
        self.classes: tuple[str, ...] = tuple(self.said.get("classes", named))

    def check(self) -> None:
        """Refuse to predict without a model, or with one that does not say what it is."""
        if not self.model.is_file():
            config, root = shlex.quote(str(self.configs / "train.json")), shlex.quote(str(self.configs.parent))
            train = f"{config} --bundle_root {root} --dataset_dir <data>"
            raise UserError(
                f"there is no model {self.model}; name its file with --model, or train one: "
                f"python -m monai.bundle run --config_file {train}"
            )
        if not self.sizes:
            raise UserError(f"{beside(self.model, 'network')} is missing; copy it from where {self.model} was trained.")

    def sha256(self) -> str:
        """Of the weights; empty where there are none yet."""
        return hash_file(self.model.resolve()) if self.model.is_file() else ""


class ModelCheckpointLoader(CheckpointLoader):
    """MONAI's loader, with one line for what does not fit; a federation that brings weights disables it by its name."""

    def __init__(self, model: str | Path, network: nn.Module) -> None:
        super().__init__(load_path=str(model), load_dict={"network": network})
        self.model, self.network = model, network

    def __call__(self, _: Any) -> None:
        load_network(self.network, self.model)
