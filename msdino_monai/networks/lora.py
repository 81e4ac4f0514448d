"""Low-rank adapters (LoRA, Hu et al., arXiv:2106.09685): a frozen linear map W learns as W + B A.

B starts at zero, so that an adapted network starts as the frozen one. The product is not scaled, so that B A can be
averaged and refactored without knowing the rank it came from.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.networks.weights import State, hash_tensors

FORMAT = "msdino_monai adapter"
FORMAT_VERSION = "1"


class LowRank(nn.Module):
    """B A x, of features (..., in_features)."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        self.lora_a = nn.Parameter(torch.empty(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(features, self.lora_a), self.lora_b)

    @torch.jit.unused
    def product(self) -> torch.Tensor:
        """What is added to the weight, (out_features, in_features)."""
        return self.lora_b.detach() @ self.lora_a.detach()


class LoraLinear(nn.Linear):
    """A linear layer with an adapter of its own."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__(in_features, out_features)
        adapter = LowRank(in_features, out_features, rank)
        self.lora_a, self.lora_b = adapter.lora_a, adapter.lora_b

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        update = F.linear(F.linear(features, self.lora_a), self.lora_b)
        return F.linear(features, self.weight, self.bias) + update

    @torch.jit.unused
    def merged(self) -> nn.Linear:
        """The plain layer that gives the same."""
        plain = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        plain.load_state_dict({"weight": self.weight + self.lora_b @ self.lora_a, "bias": self.bias})
        return plain


class FusedProjection(nn.Module):
    """Queries, keys and values in one linear layer: features (B, N, C) to three of (B, heads, N, head_dim).

    Args:
        width: C.
        num_heads: heads; each has `width // num_heads` channels.
        heads_first: the layer's rows are ordered by head, then by query, key and value (TinyViT); or the other way
            round (SAM's ViT).
    """

    def __init__(self, width: int, num_heads: int, heads_first: bool = False) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads {num_heads}, got {width}.")
        self.width, self.num_heads, self.heads_first = width, num_heads, heads_first
        self.axis = 3 if heads_first else 2
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.bias = nn.Parameter(torch.zeros(3 * width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value = self.project(features)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def project(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, (B, N, heads, head_dim) each."""
        count, tokens, width = features.shape
        fused = F.linear(features, self.weight, self.bias)
        if self.heads_first:
            fused = fused.view(count, tokens, self.num_heads, 3, width // self.num_heads)
        else:
            fused = fused.view(count, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = fused.unbind(self.axis)
        return query, key, value

    @torch.jit.unused
    def rows(self, weight: torch.Tensor, part: int) -> torch.Tensor:
        """The weight's rows that make queries (0), keys (1) or values (2), (heads, head_dim, C); a view."""
        parts = (self.num_heads, 3) if self.heads_first else (3, self.num_heads)
        return weight.view(*parts, -1, self.width).select(self.axis - 2, part)


class LoraFusedProjection(FusedProjection):
    """The same with an adapter for the queries and one for the values, as if each had a layer of its own."""

    def __init__(self, width: int, num_heads: int, rank: int, heads_first: bool = False) -> None:
        super().__init__(width, num_heads, heads_first)
        self.query = LowRank(width, width, rank)
        self.value = LowRank(width, width, rank)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value = self.project(features)
        query = query + self.query(features).view(query.shape)
        value = value + self.value(features).view(value.shape)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    @torch.jit.unused
    def merged(self) -> FusedProjection:
        """The plain layer that gives the same."""
        plain = FusedProjection(self.width, self.num_heads, self.heads_first).to(self.weight)
        weight = self.weight.detach().clone()
        for part, adapter in ((0, self.query), (2, self.value)):
            rows = self.rows(weight, part)
            rows += adapter.product().view_as(rows)
        plain.load_state_dict({"weight": weight, "bias": self.bias})
        return plain


def linear(in_features: int, out_features: int, rank: int = 0) -> nn.Linear:
    """A linear layer, with an adapter where `rank` is not 0."""
    return LoraLinear(in_features, out_features, rank) if rank else nn.Linear(in_features, out_features)


def fused_projection(width: int, num_heads: int, rank: int = 0, heads_first: bool = False) -> FusedProjection:
    """Queries, keys and values in one layer, with adapters where `rank` is not 0."""
    if rank:
        return LoraFusedProjection(width, num_heads, rank, heads_first)
    return FusedProjection(width, num_heads, heads_first)


def merged(network: nn.Module) -> nn.Module:
    """A frozen copy of the network with every adapter folded into its layer: the same output, plain layers."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLinear | LoraFusedProjection):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, module.merged())
    return network.requires_grad_(False)


def trained_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter that is trained, by name."""
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters() if tensor.requires_grad}


def load_trained(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str = "the update") -> None:
    """Set every trained parameter; nothing is changed if one does not fit.

    Args:
        network: whose trained parameters are set.
        tensors: as `trained_tensors` gives them.
        source: where they come from, for the message.
    """
    own = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        problem = f"lacks {_some(missing)}" if missing else f"holds {_some(unknown)}, which is not trained here"
        raise UserError(f"{source} {problem}; use the same size, rank and trainable on both sides.")
    for name, parameter in own.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape:
            raise UserError(
                f"{source} holds {name} of shape {tuple(tensor.shape)}, here it is {tuple(parameter.shape)}; "
                "use the same size, rank and out_channels on both sides."
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source} holds numbers in {name} that are not finite; leave it out and train again.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def base_hash(network: nn.Module) -> str:
    """One hash for what adapters rest on: every tensor that is not trained, and the architecture.

    The architecture is what `network.architecture` says, a dictionary of plain values, where there is one.
    """
    trained = {name for name, tensor in network.named_parameters() if tensor.requires_grad}
    frozen: State = {name: tensor for name, tensor in network.state_dict().items() if name not in trained}
    architecture = json.dumps(getattr(network, "architecture", {}), sort_keys=True)
    return hashlib.sha256(f"{architecture}\n{hash_tensors(frozen)}".encode()).hexdigest()


def save_adapter(path: str | Path, network: nn.Module, **notes: str) -> Path:
    """Write the trained tensors as safetensors, with the hash of the base they need, the rank and what is trained.

    Args:
        path: the file; its folder must exist.
        network: a network whose `adaptation` says `rank` and `trainable`.
        notes: more to be said in the file's metadata, such as the round.
    """
    path = Path(path)
    metadata = {**notes, **_description(network)}
    tensors = {name: tensor.contiguous() for name, tensor in trained_tensors(network).items()}
    data = safetensors.torch.save(tensors, metadata=metadata)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path


def load_adapter(path: str | Path, network: nn.Module) -> dict[str, str]:
    """Set the trained parameters from a file of `save_adapter` and return what it says; another base is refused."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping, but has keys)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of an adapter.safetensors.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is no whole safetensors file; copy the adapter again.") from error
    if (said.get("format"), said.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"{path} is no adapter of this package; give a file written by save_adapter.")
    expected = _description(network)
    for field, advice in (
        ("rank", "set rank to the adapter's"),
        ("trainable", "set trainable to the adapter's"),
        ("base_sha256", "use the size, image_size, out_channels, seed and checkpoint it was trained with"),
    ):
        if said.get(field) != expected[field]:
            raise UserError(f"{path} has {field} {said.get(field)}, this network has {expected[field]}; {advice}.")
    load_trained(network, tensors, str(path))
    return said


def _description(network: nn.Module) -> dict[str, str]:
    adaptation: Mapping[str, Any] = getattr(network, "adaptation", {})
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base_sha256": base_hash(network),
        "rank": str(adaptation.get("rank", 0)),
        "trainable": str(adaptation.get("trainable", "")),
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
