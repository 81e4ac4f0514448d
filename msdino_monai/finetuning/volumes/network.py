"""An adapted SAM as a trained model: what is kept of it, what it says of itself, how it is built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from msdino_monai.distributed import rank, unwrapped
from msdino_monai.errors import UserError
from msdino_monai.finetuning.description import beside, load_network, read_description, save_network
from msdino_monai.finetuning.model_card import ModelCard, ModelCheckpointLoader
from msdino_monai.finetuning.report import write_json
from msdino_monai.networks.lora import load_adapter, load_trained, save_adapter, trained_tensors
from msdino_monai.networks.sam import SamSegmenter, lite_medsam_checkpoint
from msdino_monai.networks.sam.size import size_of
from msdino_monai.networks.sam.trainable import chosen

# Without a model to say otherwise; those of the bundle's train.json.
_SIZES: dict[str, Any] = {"size": "lite_medsam", "rank": 32, "trainable": "flap", "image_size": 224, "num_slices": 5}
RANDOM = "random"


def base_checkpoint(size: str, checkpoint: str | None = None) -> str | None:
    """The file with the base's public weights; None where the base is drawn from the seed, because somebody said so.

    LiteMedSAM's are found where they are installed. The sizes for tests have none.
    """
    size_of(size)
    if checkpoint == RANDOM or (checkpoint is None and size == "tiny"):
        return None
    if checkpoint is None and size == "lite_medsam":
        return str(lite_medsam_checkpoint())
    if checkpoint is None:
        raise UserError(
            f"--size {size} needs SAM's own weights: download them from github.com/facebookresearch/segment-anything "
            f"and give --checkpoint (or --checkpoint {RANDOM} to begin from nothing)."
        )
    return checkpoint


class VolumeCard(ModelCard):
    """What a trained segmenter of volumes says of itself.

    Args:
        model: the weights, whole (`.pt`) or the adapter alone (`.safetensors`).
        metadata: the bundle's metadata.json.
    """

    def __init__(self, model: str | Path, metadata: str | Path) -> None:
        super().__init__(model, metadata, task="multi_class", first_channel=1)
        self.settings: dict[str, Any] = {**_SIZES, **self.sizes}
        self.label_key = str(self.said.get("label_key", "label"))
        self.orientation = str(self.said.get("orientation", "PLS"))
        self.intensity_range = self.said.get("intensity_range", [-160, 240])
        self.intensity_percentiles = self.said.get("intensity_percentiles")

    def network(self, checkpoint: str | None = None) -> SamSegmenter:
        """The network these weights belong to; an adapter also needs the base's `checkpoint` it was trained on."""
        base = None
        if is_adapter(self.model):
            said = RANDOM if self.said.get("checkpoint") == RANDOM else None
            base = base_checkpoint(str(self.settings["size"]), checkpoint or said)
        seed = int(self.said.get("seed", 0))
        return SamSegmenter(out_channels=1 + len(self.classes), checkpoint=base, seed=seed, **self.settings)


class VolumeModelLoader(ModelCheckpointLoader):
    """Loads a whole model or an adapter, or says in one line what does not fit."""

    def __call__(self, _: Any) -> None:
        load_model(self.network, self.model)


def load_model(network: nn.Module, model: str | Path) -> None:
    """Weights from a whole model, or from an adapter made on the same base."""
    if is_adapter(model):
        load_adapter(model, network)
    else:
        load_network(network, model)


def is_adapter(model: str | Path) -> bool:
    return Path(str(model)).suffix == ".safetensors"


def write_adapter(network: nn.Module, model: str | Path) -> Path | None:
    """What `trainable` trains, alone, beside the whole model and with its description; nothing where that is all of it.

    A federation's pattern may have frozen a part of it. Whoever loads the adapter knows nothing of that: it holds the
    frozen part too.
    """
    plain, path = cast(SamSegmenter, unwrapped(network)), Path(str(model)).expanduser().with_name("adapter.safetensors")
    with chosen(plain, str(plain.adaptation["trainable"])):
        if rank() > 0 or all(parameter.requires_grad for parameter in plain.parameters()):
            return None
        said = read_description(model)
        save_adapter(path, plain, classes=",".join(said.get("classes", [])))
    write_json(beside(path, "network"), said)
    return path


def save_segmenter(network: nn.Module, model: str | Path, description: Mapping[str, Any]) -> None:
    """The whole model and the adapter alone, as a training leaves them."""
    save_network(model, unwrapped(network).state_dict(), description)
    write_adapter(network, model)


class TrainedWeights:
    """The trained part of a network, as a part of checkpoints: the frozen base is the same at every start."""

    def __init__(self, network: nn.Module) -> None:
        self.network = unwrapped(network)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return trained_tensors(self.network)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        load_trained(self.network, state, "the checkpoint")


class CurrentWeights:
    """In place of `AveragedWeights` where no average is kept: the network itself is validated and its best kept."""

    def __init__(self, network: nn.Module) -> None:
        self.network = unwrapped(network)
