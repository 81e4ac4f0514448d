"""Which tensors of a network travel in a federation, and proof that the others are the same everywhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import torch
from torch import nn

from msdino_monai.federated.error import ShareableError

Tensors = Mapping[str, torch.Tensor]
_LARGEST = 1e15  # products of two such numbers, summed, still fit into a float32


def freeze_others(network: nn.Module, pattern: str | None) -> None:
    """Freeze the parameters a pattern does not match: trained but not sent, they would drift apart between sites."""
    if pattern is None:
        return
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ShareableError(f"--trainable {pattern!r} is no regular expression: {error}.") from None
    for name, parameter in network.named_parameters():
        if not wanted.search(name):
            parameter.requires_grad_(False)


def travelling(network: nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters, and the running statistics of trained batch norms, by name; views, not copies."""
    found = {name: parameter.detach() for name, parameter in network.named_parameters() if parameter.requires_grad}
    for path, module in network.named_modules():
        trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and trained:
            for name in ("running_mean", "running_var"):
                if (statistic := getattr(module, name)) is not None:
                    found[f"{path}.{name}" if path else name] = statistic
    if not found:
        raise ShareableError("nothing is trained, so nothing can be federated; give another --trainable pattern.")
    return found


def copy_in(network: nn.Module, tensors: Tensors) -> None:
    """Put tensors that came in where they belong."""
    own = travelling(network)
    check_tensors(tensors, own)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def copy_out(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that travel as float32 copies on the CPU."""
    return {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in travelling(network).items()}


def check_tensors(tensors: Tensors, expected: Tensors) -> None:
    """Refuse what has other names or shapes, or numbers that are not finite."""
    lines = [f"{name} is missing" for name in expected if name not in tensors]
    lines += [f"{name} is unknown" for name in tensors if name not in expected]
    lines += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if not lines:
        lines = [f"{name} is not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if lines:
        raise ShareableError("; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else ""))


def check_weights(tensors: Tensors, expected: Tensors) -> None:
    """Refuse what `check_tensors` does, and numbers so large that the average of the sites would overflow."""
    check_tensors(tensors, expected)
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.abs().max() > _LARGEST:
            raise ShareableError(f"{name} is too large to be a weight; its training diverged")


def base_hash(network: nn.Module) -> str:
    """The sha256 of everything that does not travel (names, shapes, bytes), and of what does (names, shapes).

    `network.architecture`, a dictionary of plain values, belongs to it where there is one: what no tensor shows.
    """
    moving = travelling(network)
    digest = hashlib.sha256(json.dumps(getattr(network, "architecture", {}), sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if name not in moving and not name.endswith("num_batches_tracked"):
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
    digest.update("\n".join(sorted(moving)).encode())
    return digest.hexdigest()
