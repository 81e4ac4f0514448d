"""Files of named tensors: what is in them, and one hash for it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from msdino_monai.errors import UserError

State = Mapping[str, torch.Tensor]


def hash_tensors(state: State) -> str:
    """One hash for names, types, shapes and values, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\0")
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def decode_tensors(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    """The tensors in a file's bytes; nothing in it is executed."""
    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = safetensors.torch.load(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may trip any part of a loader
        raise UserError(
            f"{path} does not load as plain tensors; copy it again, or have its state dict saved with torch.save."
        ) from error
    for wrapper in ("teacher", "student", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not all(map(_is_plain, loaded.items())):
        raise UserError(f"{path} holds more than named tensors; give a state dict saved with torch.save.")
    return dict(loaded)


def _is_plain(item: tuple[Any, Any]) -> bool:
    name, tensor = item
    is_dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return isinstance(name, str) and is_dense
