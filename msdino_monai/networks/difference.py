"""What keeps weights from fitting a network, said in sizes first and tensors second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from msdino_monai.networks.vit import ViTBody
from msdino_monai.networks.weights import State


def body_sizes(body: ViTBody) -> dict[str, int]:
    """The sizes that make a body: what a description says under `body`."""
    sizes = sizes_in({f"body.{name}": tensor for name, tensor in body.state_dict().items()})
    return {**sizes, "num_heads": int(getattr(body.blocks[0], "attn").num_heads)}  # noqa: B009


def sizes_in(state: State) -> dict[str, int]:
    """The sizes that can be read off an encoder's state dict."""
    sizes = {}
    for name, axis, tensor in (
        ("embedding_dim", 1, "body.to_hidden.weight"),
        ("hidden_size", 0, "body.to_hidden.weight"),
        ("mlp_dim", 0, "body.blocks.0.mlp.linear1.weight"),
    ):
        if tensor in state and state[tensor].ndim == 2:
            sizes[name] = state[tensor].shape[axis]
    sizes["num_layers"] = len({name.split(".")[2] for name in state if name.startswith("body.blocks.")})
    registers = state.get("body.registers")
    sizes["num_registers"] = 0 if registers is None else count_tokens(registers)
    return sizes


def count_tokens(tokens: torch.Tensor) -> int:
    """N of (1, N, D); none if it has another form."""
    return tokens.shape[1] if tokens.ndim == 3 else 0


def state_difference(expected: State, found: State, source: str, limit: int = 8) -> list[str]:
    """What keeps `found`, as read from `source`, from loading where `expected` stands: sizes first, then tensors."""
    lines = differences(sizes_in(expected), sizes_in(found), source)
    tensors = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            tensors.append(f"{name}: missing in {source}")
        elif name not in expected:
            tensors.append(f"{name}: in {source} only")
        elif expected[name].shape != found[name].shape:
            tensors.append(f"{name}: {tuple(found[name].shape)} in {source}, {tuple(expected[name].shape)} here")
    more = [f"and {len(tensors) - limit} more tensors"] if len(tensors) > limit else []
    return lines + tensors[:limit] + more


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], source: str) -> list[str]:
    """One line for each value that differs between a description in `source` and ours."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        f"{name}: {theirs.get(name, 'nothing')} in {source}, {ours.get(name, 'nothing')} here"
        for name in names
        if name not in ours or name not in theirs or ours[name] != theirs[name]
    ]
