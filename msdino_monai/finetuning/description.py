"""What a fine-tuned network is, kept beside its weights: `model.pt` has its `model.network.json`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.finetuning.report import write_json
from msdino_monai.networks.weights import State, decode_tensors
from msdino_monai.vault.atomic import make_folder, read_file, remove_files, write_file


def beside(model: str | Path, kind: str) -> Path:
    """`model.<kind>.json` beside `model.pt`."""
    return Path(str(model)).expanduser().with_suffix(f".{kind}.json")


def save_network(model: str | Path, state: State, description: Mapping[str, Any]) -> Path:
    """Write the weights as a plain dict of tensors, and what is needed to build their network again."""
    path = Path(str(model)).expanduser()
    make_folder(path.parent)
    weights = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    remove_files([beside(path, "calibration")])  # fitted to other weights
    write_json(beside(path, "network"), {**description, "package_version": __version__})
    write_file(path, buffer.getvalue())
    return path


def read_description(model: str | Path, kind: str = "network") -> dict[str, Any]:
    """What stands beside a model; nothing where nothing does."""
    path = beside(model, kind)
    if not path.exists():
        return {}
    try:
        content = json.loads(read_file(path.resolve()))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object; copy it again from where the model was trained.")
    return content


def load_network(network: torch.nn.Module, model: str | Path) -> None:
    """Load weights, or say in one message what does not fit."""
    path = Path(str(model)).expanduser()
    if not path.is_file():
        raise UserError(f"there is no model {path}; train one, or name its file with --model.")
    state = decode_tensors(path, read_file(path.resolve()))
    expected = network.state_dict()
    lines = [f"{name}: missing in the file" for name in expected if name not in state]
    lines += [f"{name}: only in the file" for name in state if name not in expected]
    lines += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} here"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if lines:
        shown = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
        raise UserError(f"{path} belongs to another network ({shown}); keep {beside(path, 'network').name} beside it.")
    network.load_state_dict(state)
