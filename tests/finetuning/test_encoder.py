from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from msdino_monai.backbone import save_backbone
from msdino_monai.errors import UserError
from msdino_monai.finetuning.encoder import build_encoder, encoder_sizes
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.difference import body_sizes
from msdino_monai.vault.keygen import keygen

SMALL: dict[str, Any] = {
    "patch_size": 8,
    "embedding_dim": 16,
    "hidden_size": 16,
    "mlp_dim": 24,
    "num_layers": 2,
    "num_heads": 2,
}


def pretrained(folder: Path, signing_key: Path | None = None, with_embedder: bool = True) -> ImageEncoder:
    """A body without positions on a seeded embedder with a margin, saved as the coordinator does."""
    torch.manual_seed(1)
    encoder = ImageEncoder(PatchEmbedding(32, 8, 16, margin=1, seed=7), ViTBody(16, 16, 24, 2, 2, num_registers=1))
    state = {name: tensor for name, tensor in encoder.state_dict().items() if with_embedder or "embedding" not in name}
    description: dict[str, Any] = {
        "body": body_sizes(encoder.body),
        "embedder": encoder.embedding.describe(),
        "sites": [],
        "settings": {},
        "trained": {},
    }
    save_backbone(folder, state, description, signing_key=signing_key)
    return encoder.eval()


def test_start_equals_the_position_free_backbone(tmp_path: Path) -> None:
    backbone = pretrained(tmp_path)
    encoder = build_encoder(32, backbone=tmp_path).eval()
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(encoder.features(image), backbone.features(image))
    assert encoder.body.positions is not None
    assert encoder.body.positions.shape == (1, 16, 16)
    assert not encoder.body.positions.any()


def test_sizes_and_embedder_come_from_the_backbones_description(tmp_path: Path) -> None:
    pretrained(tmp_path, with_embedder=False)
    encoder = build_encoder(48, backbone=tmp_path)
    assert encoder_sizes(encoder) == {
        "img_size": 48,
        "patch_size": 8,
        "margin": 1,
        "position_scale": 0.0,
        "embedding_dim": 16,
        "hidden_size": 16,
        "mlp_dim": 24,
        "num_layers": 2,
        "num_heads": 2,
        "num_registers": 1,
    }
    torch.testing.assert_close(encoder.embedding.weight, PatchEmbedding(48, 8, 16, margin=1, seed=7).weight)


def test_sizes_build_the_same_network_without_the_backbone(tmp_path: Path) -> None:
    pretrained(tmp_path)
    encoder = build_encoder(32, backbone=tmp_path).eval()
    again = build_encoder(**encoder_sizes(encoder)).eval()
    again.load_state_dict(encoder.state_dict())
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(again(image), encoder(image))


def test_bare_state_dict_is_enough_where_the_heads_are_given(tmp_path: Path) -> None:
    backbone = pretrained(tmp_path)
    (tmp_path / "model.json").unlink()
    encoder = build_encoder(32, backbone=tmp_path / "model.pt", num_heads=2).eval()
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(encoder.features(image), backbone.features(image))
    assert encoder.embedding.margin == 1


def test_backbone_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    pretrained(tmp_path)
    with pytest.raises(UserError, match=r"hidden_size: 16 in model\.pt, 32 here"):
        build_encoder(32, backbone=tmp_path, hidden_size=32)


def test_backbone_of_another_embedder_is_refused(tmp_path: Path) -> None:
    pretrained(tmp_path)
    with pytest.raises(UserError, match="another patch embedding"):
        build_encoder(32, backbone=tmp_path, embedder_seed=8)


def test_coordinators_signature_is_asked_for(tmp_path: Path) -> None:
    keygen(str(tmp_path / "keys"), "coordinator")
    pretrained(tmp_path / "signed", tmp_path / "keys" / "coordinator_signing_key.txt")
    pretrained(tmp_path / "unsigned")
    key = tmp_path / "keys" / "coordinator_signing_key.pub"
    assert build_encoder(32, backbone=tmp_path / "signed", coordinator_key=key).body.num_registers == 1
    with pytest.raises(UserError, match="not signed"):
        build_encoder(32, backbone=tmp_path / "unsigned", coordinator_key=key)


def test_published_vit_loads_with_its_own_sizes(tmp_path: Path) -> None:
    width = 64
    state = {
        "patch_embed.proj.weight": torch.randn(width, 3, 8, 8),
        "patch_embed.proj.bias": torch.randn(width),
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 17, width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    for name, shape in (
        ("norm1.weight", (width,)),
        ("norm1.bias", (width,)),
        ("attn.qkv.weight", (3 * width, width)),
        ("attn.qkv.bias", (3 * width,)),
        ("attn.proj.weight", (width, width)),
        ("attn.proj.bias", (width,)),
        ("norm2.weight", (width,)),
        ("norm2.bias", (width,)),
        ("mlp.fc1.weight", (96, width)),
        ("mlp.fc1.bias", (96,)),
        ("mlp.fc2.weight", (width, 96)),
        ("mlp.fc2.bias", (width,)),
    ):
        state[f"blocks.0.{name}"] = 0.05 * torch.randn(shape)
    torch.save(state, tmp_path / "vit.pth")
    encoder = build_encoder(48, backbone=tmp_path / "vit.pth")
    assert encoder_sizes(encoder)["hidden_size"] == width
    assert encoder.body.positions is not None
    assert encoder.body.positions.shape == (1, 36, width)
    torch.testing.assert_close(encoder.body.norm.weight, state["norm.weight"])


def test_frozen_backbone_leaves_new_positions_to_learn(tmp_path: Path) -> None:
    pretrained(tmp_path)
    encoder = build_encoder(32, backbone=tmp_path, freeze_backbone=True, drop_path_rate=0.5)
    assert [name for name, parameter in encoder.named_parameters() if parameter.requires_grad] == ["body.positions"]
    encoder.train()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(encoder(image), encoder(image)), "frozen layers must not be dropped at random"


def test_freezing_fresh_weights_is_refused() -> None:
    with pytest.raises(UserError, match="needs a --backbone"):
        build_encoder(32, freeze_backbone=True, **SMALL)


def test_embedding_learns_only_if_asked_to() -> None:
    frozen, learning = build_encoder(32, **SMALL), build_encoder(32, train_embedding=True, **SMALL)
    assert frozen.state_dict().keys() == learning.state_dict().keys()
    assert "embedding.weight" not in dict(frozen.named_parameters())
    learning(torch.rand(1, 1, 32, 32)).sum().backward()
    assert learning.embedding.weight.grad is not None
    assert learning.embedding.weight.grad.any()


def test_default_embedding_loses_nothing() -> None:
    encoder = build_encoder(32, **{**SMALL, "embedding_dim": None})
    weight = encoder.embedding.weight.flatten(1)
    torch.testing.assert_close(weight.T @ weight, torch.eye(64), atol=1e-3, rtol=0)
