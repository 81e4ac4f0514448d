"""The encoder a hospital fine-tunes: patch embedding, position codes that start at zero, and a body."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from msdino_monai.backbone import Backbone, load_backbone, read_backbone
from msdino_monai.errors import UserError
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.difference import sizes_in
from msdino_monai.networks.public_vit import from_public_checkpoint, is_public

# Without a backbone: ViT-S/16 on a patch embedding that loses nothing.
_SIZES = {"hidden_size": 384, "mlp_dim": 1536, "num_layers": 12, "num_heads": 6, "num_registers": 0}
_EMBEDDER: dict[str, Any] = {"patch_size": 16, "margin": 0, "position_scale": 0.0, "embedder_seed": 0}


def build_encoder(
    img_size: int = 224,
    *,
    backbone: str | Path | None = None,
    coordinator_key: str | Path | None = None,
    embedder_checkpoint: str | Path | None = None,
    patch_size: int | None = None,
    embedding_dim: int | None = None,
    margin: int | None = None,
    position_scale: float | None = None,
    embedder_seed: int | None = None,
    hidden_size: int | None = None,
    mlp_dim: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    num_registers: int | None = None,
    drop_path_rate: float = 0.0,
    fused_attention: bool = False,
    checkpoint_blocks: bool = False,
    freeze_backbone: bool = False,
    train_embedding: bool = False,
) -> ImageEncoder:
    """An encoder with position codes, its weights fresh or a backbone's.

    Sizes that are None are the backbone's; without a backbone they are those of ViT-S/16. A size that is given and
    differs from the backbone's is refused with both.

    Args:
        img_size: side of the images; position codes follow it.
        backbone: a .pt or .safetensors file, or its folder; ours, or a published ViT (DINO, timm, Hugging Face, MONAI).
        coordinator_key: whose signature the backbone's description must bear.
        embedder_checkpoint: the ViT the hospitals took their patch embedding from, if they did.
        drop_path_rate: stochastic depth of the last block.
        freeze_backbone: what came from the backbone does not learn; position codes that started at zero do.
        train_embedding: the patch embedding learns too.
    """
    given = {
        name: value
        for name, value in {
            "patch_size": patch_size,
            "embedding_dim": embedding_dim,
            "margin": margin,
            "position_scale": position_scale,
            "embedder_seed": embedder_seed,
            "hidden_size": hidden_size,
            "mlp_dim": mlp_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "num_registers": num_registers,
        }.items()
        if value is not None
    }
    if freeze_backbone and backbone is None:
        raise UserError("--freeze_backbone needs a --backbone; fresh weights that cannot learn are of no use.")
    found = None if backbone is None else read_backbone(backbone, coordinator_key=coordinator_key)
    sizes = {**_SIZES, **_EMBEDDER, **({} if found is None else _sizes_of(found)), **given}
    sizes.setdefault("embedding_dim", sizes["patch_size"] ** 2)
    # A published ViT and a file that holds its embedder bring the weights; only their shape is needed here.
    brought = found is not None and (is_public(found.state) or _holds_its_embedder(found))
    embedding = PatchEmbedding(
        img_size=img_size,
        patch_size=sizes["patch_size"],
        embedding_dim=sizes["embedding_dim"],
        margin=sizes["margin"],
        seed=sizes["embedder_seed"],
        position_scale=sizes["position_scale"],
        checkpoint=None if brought else embedder_checkpoint,
    )
    body = ViTBody(
        embedding_dim=sizes["embedding_dim"],
        **{name: sizes[name] for name in _SIZES},
        num_positions=embedding.num_tokens,
        drop_path_rate=0.0 if freeze_backbone else drop_path_rate,  # frozen layers must not flicker
        fused_attention=fused_attention,
        checkpoint_blocks=checkpoint_blocks,
    )
    encoder = ImageEncoder(embedding, body)
    loaded: Backbone | None = None
    if backbone is not None:
        loaded = load_backbone(encoder, backbone, coordinator_key=coordinator_key, embedder_must_match=not brought)
    if freeze_backbone and loaded is not None:
        _freeze(encoder, loaded.state.keys())
    if train_embedding:
        weight = embedding.weight
        del embedding.weight
        embedding.weight = nn.Parameter(weight.clone())  # the same name in the state dict
    return encoder


def encoder_sizes(encoder: ImageEncoder) -> dict[str, Any]:
    """What `build_encoder` must be given to hold these weights again, without the backbone."""
    embedding, body = encoder.embedding, encoder.body
    return {
        "img_size": embedding.img_size,
        "patch_size": embedding.patch_size,
        "margin": embedding.margin,
        "position_scale": embedding.position_scale,
        **body.sizes(),
    }


def _sizes_of(backbone: Backbone) -> dict[str, Any]:
    """What a backbone says of itself: a published ViT by its shapes, ours by its description, or by its shapes."""
    if is_public(backbone.state):
        _, sizes = from_public_checkpoint(backbone.state)
        return {name: value for name, value in sizes.items() if name != "num_positions"}
    if backbone.description is not None:
        embedder: Mapping[str, Any] = backbone.description["embedder"]
        sizes = {name: embedder[name] for name in ("patch_size", "embedding_dim", "margin", "position_scale")}
        seed = {"embedder_seed": embedder["seed"]} if "seed" in embedder else {}
        return {**sizes, **seed, **backbone.description["body"]}
    sizes = sizes_in(backbone.state)
    kernel = backbone.state.get("embedding.weight")
    if kernel is not None:
        sizes["patch_size"] = kernel.shape[-1]
        sizes["margin"] = _margin_of(kernel)
    return sizes


def _holds_its_embedder(backbone: Backbone) -> bool:
    """Whether the embedder must be taken from the file: it is there, and nothing says how to draw it again."""
    drawn = backbone.description is not None and "seed" in backbone.description["embedder"]
    return "embedding.weight" in backbone.state and not drawn


def _margin_of(kernel: torch.Tensor) -> int:
    """How many rings of zeros surround an embedder's patches (D, 1, p, p)."""
    rows = kernel.abs().amax(dim=(0, 1, 3)).nonzero()
    return int(rows[0]) if len(rows) else 0


def _freeze(encoder: ImageEncoder, loaded: Collection[str]) -> None:
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in loaded)
