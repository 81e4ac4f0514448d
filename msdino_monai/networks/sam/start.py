"""Random weights that are the same on every machine."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import nn


def draw(network: nn.Module, seed: int) -> None:
    """Set every weight matrix and table of the network from `seed` and its own name alone.

    The draws are uniform: they are products and sums only, where a normal deviate is a logarithm whose last bit
    differs between processors, and the sites of a federation compare hashes. Biases start at zero; normalisations,
    relative positions and `lora_b` stay as they were built, at one or zero.
    """
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            deviation = _deviation(name, tensor)
            if name.endswith(".bias"):
                tensor.zero_()
            elif deviation > 0 and not tensor.is_meta:
                tensor.copy_(_uniform(tensor.shape, deviation, seed, name))


def _deviation(name: str, tensor: torch.Tensor) -> float:
    """The standard deviation a tensor starts with; 0: it stays as it is."""
    owner, _, kind = name.rpartition(".")
    if kind == "positional_encoding_gaussian_matrix" or owner.endswith(("_token", "_tokens", "_embed")):
        return 1.0
    if kind == "pos_embed":
        return 0.02
    if kind in ("weight", "lora_a") and tensor.ndim > 1:
        inputs = tensor.shape[0] if "output_upscaling" in owner else math.prod(tensor.shape[1:])
        return 1 / math.sqrt(inputs)
    return 0.0


def _uniform(shape: torch.Size, deviation: float, seed: int, name: str) -> torch.Tensor:
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    draws = generator.random(tuple(shape), dtype=np.float32)
    return torch.from_numpy((draws - np.float32(0.5)) * np.float32(deviation * math.sqrt(12)))
