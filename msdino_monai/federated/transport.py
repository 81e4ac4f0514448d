"""How tensors travel: float32 as they are; bfloat16 and int8 as updates whose rounding the next one makes good."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch

from msdino_monai.errors import UserError, one_line

Tensors = Mapping[str, torch.Tensor]
TRANSPORTS = ("fp32", "bf16", "int8")
BLOCK = 64
_SCALES = "scales of all tensors"


def pack(tensors: Tensors, transport: str) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The bytes to send, in safetensors' format, and what the receiver will read from them."""
    if transport == "fp32":
        content = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    elif transport == "bf16":
        content = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    elif transport == "int8":
        pairs = {name: quantised(tensor) for name, tensor in tensors.items()}
        content = {name: codes for name, (codes, _) in pairs.items()}
        content[_SCALES] = torch.cat([pairs[name][1] for name in sorted(pairs)])
    else:
        raise UserError(f"unknown transport {transport!r}; it is one of: {', '.join(TRANSPORTS)}.")
    return safetensors.torch.save(content), _widened(content, transport)


def unpack(data: bytes, transport: str) -> dict[str, torch.Tensor]:
    """Float32 tensors from received bytes, which nobody has checked yet."""
    try:
        content = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"the tensors cannot be read ({one_line(error)})") from error
    return _widened(content, transport)


def tensor_bytes(data: bytes) -> int:
    """What the tensors alone take of a packed message."""
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def quantised(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes in the tensor's shape, and one bfloat16 scale for every 64 of them."""
    blocks = _blocks(tensor.float())  # (n,) -> (n / 64, 64)
    # Rounding a scale down to bfloat16 would cut the largest value off.
    scales = (blocks.abs().amax(dim=1) / 127 * (1 + 2**-8)).to(torch.bfloat16)
    steps = scales.float()[:, None]
    codes = torch.where(steps > 0, blocks / steps, blocks).round().clamp(-127, 127).to(torch.int8)
    return codes.reshape(-1)[: tensor.numel()].reshape(tensor.shape), scales


def dequantised(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    values = _blocks(codes.float()) * scales.float()[:, None]
    return values.reshape(-1)[: codes.numel()].reshape(codes.shape)


def _blocks(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)


def _widened(content: Tensors, transport: str) -> dict[str, torch.Tensor]:
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[transport]
    tensors = {name: content[name] for name in sorted(content) if name != _SCALES}  # the order of the scales
    wrong = [name for name, tensor in tensors.items() if tensor.dtype != wanted]
    if wrong:
        raise UserError(f"{wrong[0]} came as {tensors[wrong[0]].dtype}, not as {wanted}")
    if transport != "int8":
        return {name: tensor.float() for name, tensor in tensors.items()}
    counts = [-(-tensor.numel() // BLOCK) for tensor in tensors.values()]
    scales = content.get(_SCALES)
    if scales is None or scales.dtype != torch.bfloat16 or scales.shape != (sum(counts),):
        raise UserError("the scales do not belong to the tensors")
    parts = dict(zip(tensors, torch.split(scales, counts), strict=True))
    return {name: dequantised(tensor, parts[name]) for name, tensor in tensors.items()}


def plus(one: Tensors, other: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor + other[name] for name, tensor in one.items()}


def minus(one: Tensors, other: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor - other[name] for name, tensor in one.items()}


def zeros(like: Tensors) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}
