"""A bundle's weights: plain finite tensors, or random ones where it has none."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import nn

from msdino_monai.backbone import save_backbone
from msdino_monai.errors import UserError
from msdino_monai.finetuning import save_network
from msdino_monai.networks import ImageEncoder
from msdino_monai.networks.difference import body_sizes
from msdino_monai.networks.weights import State, decode_tensors, hash_tensors
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.vault.atomic import read_file


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file; refused where it holds anything else, or numbers that are none."""
    data = read_file(path)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise UserError(f"{path} is compressed, and torch never does that; have it saved with torch.save.")
    state = decode_tensors(path, data)
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds NaN or infinite numbers; train again with a lower learning_rate.")
    return state


def check_weights(bundle: Bundle) -> str:
    """Every file of weights is read whole: plain finite tensors, nothing to execute."""
    files = sorted(path for path in bundle.model.parent.iterdir() if path.suffix in (".pt", ".safetensors"))
    states = {path: read_weights(path) for path in files}
    counts = {path: sum(tensor.numel() for tensor in state.values()) for path, state in states.items()}
    twin = bundle.model.with_suffix(".safetensors")
    if twin in states and hash_tensors(states[twin]) != hash_tensors(states[bundle.model]):
        raise UserError(f"{twin} holds other numbers than {bundle.model.name}; remove it, or pack again.")
    return f"{counts[bundle.model]:,} numbers in {bundle.model.name}, plain tensors"


def network_of(bundle: Bundle) -> nn.Module:
    """The network of the bundle's inference, as its configuration starts it."""
    parser = ConfigParser()
    parser.read_config(str(bundle.config_file("inference")))
    parser.read_meta(bundle.monai_files()["meta_file"])
    parser["bundle_root"] = str(bundle.root)
    network: nn.Module = parser.get_parsed_content("network_def")
    return network.cpu().eval()


def draw_weights(bundle: Bundle, seed: int = 0) -> None:
    """Write the network's random weights to the bundle's `models`, with the description inference asks for."""
    set_determinism(seed)
    try:
        network = network_of(bundle)
    finally:
        set_determinism(None)
    state: State = network.state_dict()
    if isinstance(network, ImageEncoder):
        about: dict[str, Any] = {"body": body_sizes(network.body), "embedder": network.embedding.describe()}
        save_backbone(bundle.model.parent, state, {**about, "sites": [], "settings": {}, "trained": {}})
    else:
        save_network(bundle.model, state, {"network": _image_sizes(bundle)})


def _image_sizes(bundle: Bundle) -> dict[str, int]:
    """The settings of a network that the metadata's input names; the others are its defaults."""
    shape = [int(side) for side in bundle.image["spatial_shape"]]
    return {"image_size": shape[0], "num_slices": shape[2]} if bundle.has_volumes else {"img_size": shape[0]}
