"""Published vision transformers as a start: their weights under an ImageEncoder's names.

Known are the names of DINO, DeiT, MAE, timm, DINOv2 (layer scale and registers too), Hugging Face's ViT and Dinov2, and
MONAI's ViT. Everything maps exactly but one constant: most published ViTs normalise layers with an epsilon of 1e-6,
MONAI's blocks do so with 1e-5.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F

from msdino_monai.errors import UserError
from msdino_monai.networks.weights import State


class Normalisation(NamedTuple):
    """How a checkpoint expects its pictures: `(x - mean) / std` for each colour, x in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # DINO, DINOv2, DeiT, MAE
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # Google's and most of timm's supervised ViTs

_WRAPPERS = re.compile(r"^((module|backbone|vit|deit|dinov2|dinov2_with_registers)\.)+")
_BLOCK = re.compile(r"(?:blocks|encoder\.layer)\.(\d+)\.(.+)")
_UNUSED = re.compile(
    r"((pre_logits|head|fc|classifier|pooler|classification_head|last_layer)\.|decoder|(embeddings\.)?mask_token).*"
    r"|blocks\.\d+\.(norm_cross_attn|cross_attn)\..*"
)
_PARTS = {
    "cls_token": ("cls_token", "embeddings.cls_token"),
    "positions": ("pos_embed", "embeddings.position_embeddings", "patch_embedding.position_embeddings"),
    "registers": ("register_tokens", "reg_token", "embeddings.register_tokens"),
    "patches": ("patch_embed.proj", "embeddings.patch_embeddings.projection", "patch_embedding.patch_embeddings"),
    "norm": ("norm", "layernorm"),
}
_BLOCK_PARTS = {
    "norm1": ("norm1", "layernorm_before"),
    "norm2": ("norm2", "layernorm_after"),
    "attn.qkv": ("attn.qkv",),
    "query": ("attention.attention.query",),
    "key": ("attention.attention.key",),
    "value": ("attention.attention.value",),
    "attn.out_proj": ("attn.out_proj", "attn.proj", "attention.output.dense"),
    "mlp.linear1": ("mlp.linear1", "mlp.fc1", "intermediate.dense"),
    "mlp.linear2": ("mlp.linear2", "mlp.fc2", "output.dense"),
    "scale1": ("ls1.gamma", "layer_scale1.lambda1"),
    "scale2": ("ls2.gamma", "layer_scale2.lambda1"),
}
_BLOCK_TENSORS = {
    f"{name}.{kind}"
    for name in ("norm1", "norm2", "attn.qkv", "attn.out_proj", "mlp.linear1", "mlp.linear2")
    for kind in ("weight", "bias")
}
_NAMES = {theirs: ours for ours, names in _PARTS.items() for theirs in names}
_BLOCK_NAMES = {theirs: ours for ours, names in _BLOCK_PARTS.items() for theirs in names}


def is_public(state: State) -> bool:
    """Whether these weights are somebody else's: none of them belongs to an ImageEncoder's body."""
    return not any(name.startswith("body.") for name in state)


def from_public_checkpoint(
    state: State,
    *,
    grid: int | None = None,
    normalisation: Normalisation = IMAGENET,
    num_heads: int | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """A published ViT's state dict as that of an ImageEncoder, and the sizes that encoder must have.

    The encoder's features of a grey image are the ViT's of the same image in all its colours: normalisation, colours
    and patch bias are folded into `embedding.weight` and the bias of `body.to_hidden`, layer scales into the blocks.

    Args:
        state: the weights, under any of the names this module knows; heads are left out.
        grid: patches along one side of the wanted images; position codes are resized to it (None: as they are).
        normalisation: of the checkpoint's pictures, one number for each colour.
        num_heads: the state does not tell; None: one for each 64 channels, as in all ViT-Ti, -S, -B and -L.
    """
    parts = _renamed(state)
    hidden_size, _, patch_size, _ = parts["patches.weight"].shape
    kernel, bias = folded_projection(parts["patches.weight"], parts.get("patches.bias"), normalisation)
    class_code, positions = _split_positions(parts["positions"])
    num_layers = 1 + max(int(name.split(".")[1]) for name in parts if name.startswith("blocks."))
    body = {
        "to_hidden.weight": torch.eye(hidden_size),
        "to_hidden.bias": bias,
        "cls_token": parts["cls_token"] + class_code,
        "positions": positions if grid is None else resize_positions(positions, grid),
        "norm.weight": parts["norm.weight"],
        "norm.bias": parts["norm.bias"],
    }
    for index in range(num_layers):
        body |= _block(parts, f"blocks.{index}.")
    if "registers" in parts:
        body["registers"] = parts["registers"]
    sizes = {
        "patch_size": patch_size,
        "embedding_dim": hidden_size,
        "hidden_size": hidden_size,
        "mlp_dim": body["blocks.0.mlp.linear1.weight"].shape[0],
        "num_layers": num_layers,
        "num_heads": num_heads or max(1, hidden_size // 64),
        "num_registers": body["registers"].shape[1] if "registers" in body else 0,
        "num_positions": body["positions"].shape[1],
    }
    mapped = {"embedding.weight": kernel, **{f"body.{name}": tensor for name, tensor in body.items()}}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in mapped.items()}, sizes


def folded_projection(
    weight: torch.Tensor, bias: torch.Tensor | None, normalisation: Normalisation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch projection (D, C, p, p) as a kernel (D, 1, p, p) and a bias (D,) for 2x - 1 of a grey x in [0, 1].

    The sum over colours c of w_c * (x - mean_c) / std_c is k * (2x - 1) plus a constant; k = sum of w_c / (2 std_c).
    """
    channels = weight.shape[1]
    if len(normalisation.mean) != channels or len(normalisation.std) != channels:
        raise UserError(
            f"the checkpoint's pictures have {channels} channels; give a normalisation with as many means and "
            f"deviations, got {tuple(normalisation.mean)} and {tuple(normalisation.std)}."
        )
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1) for values in normalisation)
    scaled = weight.double() / std
    kernel = scaled.sum(dim=1, keepdim=True) / 2  # (D, C, p, p) -> (D, 1, p, p)
    constant = kernel.sum(dim=(1, 2, 3)) - (scaled * mean).sum(dim=(1, 2, 3))
    return kernel.float(), (constant if bias is None else constant + bias.double()).float()


def resize_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Position codes (1, N, D) of one square grid for another (1, grid * grid, D), bicubically as DINO does."""
    _, count, width = positions.shape
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"{count} position codes form no square grid and cannot be resized; keep the image size.")
    if side == grid:
        return positions
    plane = positions.transpose(1, 2).reshape(1, width, side, side)  # (1, N, D) -> (1, D, h, w)
    plane = F.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False)
    return plane.flatten(2).transpose(1, 2)  # (1, D, h, w) -> (1, N, D)


def _renamed(state: State) -> dict[str, torch.Tensor]:
    """Every weight in float32 under one set of names; what is unknown or missing is refused."""
    parts: dict[str, torch.Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        plain = _WRAPPERS.sub("", name)
        ours = _our_name(plain)
        if ours is not None and ours not in parts:
            parts[ours] = tensor.detach().cpu().float()
        elif ours is not None or not _UNUSED.fullmatch(plain):
            unknown.append(name)
    required = ("patches.weight", "cls_token", "positions", "norm.weight", "norm.bias", "blocks.0.norm1.weight")
    missing = [name for name in required if name not in parts]
    if missing:
        raise UserError(f"the checkpoint is no vision transformer known here: no {', '.join(missing)} in it.")
    if unknown:
        raise UserError(f"the checkpoint holds what this body has no place for: {', '.join(unknown[:6])}.")
    kernel = parts["patches.weight"]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(f"the checkpoint embeds no square patches ({tuple(kernel.shape)}); choose a ViT for pictures.")
    width = kernel.shape[0]
    for name in parts.keys() & {"cls_token", "positions", "registers"}:
        if parts[name].ndim != 3 or parts[name].shape[-1] != width:
            raise UserError(
                f"the checkpoint's {name} of shape {tuple(parts[name].shape)} do not fit its width {width}."
            )
    return parts


def _our_name(name: str) -> str | None:
    match = _BLOCK.fullmatch(name)
    prefix, rest = (f"blocks.{match[1]}.", match[2]) if match else ("", name)
    names = _BLOCK_NAMES if match else _NAMES
    if rest in names:
        return prefix + names[rest]
    stem, _, kind = rest.rpartition(".")
    return f"{prefix}{names[stem]}.{kind}" if stem in names and kind in ("weight", "bias") else None


def _split_positions(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The class token's code (zero where it has none) and the patches' codes."""
    count = codes.shape[1]
    if math.isqrt(count) ** 2 == count:
        return torch.zeros_like(codes[:, :1]), codes
    if math.isqrt(count - 1) ** 2 == count - 1:
        return codes[:, :1], codes[:, 1:]
    raise UserError(f"the checkpoint's {count} position codes form no square grid; choose a ViT for square pictures.")


def _block(parts: State, prefix: str) -> dict[str, torch.Tensor]:
    """One block's weights under MONAI's names."""
    block = {name.removeprefix(prefix): tensor for name, tensor in parts.items() if name.startswith(prefix)}
    for kind in ("weight", "bias"):
        separate = [block.pop(f"{name}.{kind}", None) for name in ("query", "key", "value")]
        if all(tensor is not None for tensor in separate):
            block[f"attn.qkv.{kind}"] = torch.cat([tensor for tensor in separate if tensor is not None])
    if "attn.qkv.weight" in block:
        block.setdefault("attn.qkv.bias", torch.zeros(block["attn.qkv.weight"].shape[0]))
    scales = {"attn.out_proj": block.pop("scale1", None), "mlp.linear2": block.pop("scale2", None)}
    if block.keys() != _BLOCK_TENSORS:
        raise UserError(
            f"{prefix[:-1]} of the checkpoint is not whole; choose a ViT with plain attention and MLP blocks."
        )
    for branch, gamma in scales.items():
        if gamma is not None:
            block[f"{branch}.weight"] = gamma[:, None] * block[f"{branch}.weight"]
            block[f"{branch}.bias"] = gamma * block[f"{branch}.bias"]
    return {prefix + name: tensor for name, tensor in block.items()}
