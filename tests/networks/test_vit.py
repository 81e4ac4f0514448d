from __future__ import annotations

import pytest
import torch

from msdino_monai.networks import PatchEmbedding, ViTBody
from msdino_monai.vault import draw_orders, shuffle_tokens, unshuffle_tokens


def body() -> ViTBody:
    torch.manual_seed(0)
    return ViTBody(embedding_dim=20, hidden_size=32, mlp_dim=64, num_layers=3, num_heads=4).eval()


def test_shuffled_tokens_give_the_same_features_in_the_shuffled_order() -> None:
    tokens = PatchEmbedding(64, 16, 20)(torch.rand(3, 1, 64, 64))
    orders = draw_orders(3, 16)
    with torch.inference_mode():
        ordered = body()(tokens)
        shuffled = body()(torch.from_numpy(shuffle_tokens(tokens.numpy(), orders)))
    torch.testing.assert_close(shuffled[:, 0], ordered[:, 0], atol=1e-5, rtol=0)
    restored = torch.from_numpy(unshuffle_tokens(shuffled[:, 1:].numpy(), orders))
    torch.testing.assert_close(restored, ordered[:, 1:], atol=1e-5, rtol=0)


def test_position_codes_make_the_order_matter() -> None:
    embedding = PatchEmbedding(64, 16, 20, position_scale=1.0)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        upright, flipped = body()(embedding(image))[:, 0], body()(embedding(image.flip(-2)))[:, 0]
    assert not torch.allclose(upright, flipped, atol=1e-4)


def test_width_must_divide_by_the_heads() -> None:
    with pytest.raises(ValueError, match="got 33"):
        ViTBody(hidden_size=33)
