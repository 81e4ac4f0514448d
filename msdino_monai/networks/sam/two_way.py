"""The transformer of SAM's mask decoder: a few tokens and the image's features attend to each other."""

from __future__ import annotations

import torch
from torch import nn

from msdino_monai.networks.lora import linear
from msdino_monai.networks.sam.attention import attend
from msdino_monai.networks.sam.layer import MLP
from msdino_monai.networks.sam.size import DecoderSize


class Attention(nn.Module):
    """Queries (B, N, C) look at keys (B, M, C), in `inner` channels; adapters for queries, values if `rank` > 0."""

    def __init__(self, width: int, inner: int, num_heads: int, rank: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (inner // num_heads) ** -0.5
        self.q_proj = linear(width, inner, rank)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = linear(width, inner, rank)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = self.heads(self.q_proj(query)), self.heads(self.k_proj(key)), self.heads(self.v_proj(value))
        return self.out_proj(attend(query, key, value, self.scale))  # type: ignore[no-any-return]

    def heads(self, features: torch.Tensor) -> torch.Tensor:
        count, length, inner = features.shape
        return features.view(count, length, self.num_heads, inner // self.num_heads).transpose(
            1, 2
        )  # (B, N, inner) -> (B, heads, N, D)


class TwoWayBlock(nn.Module):
    """Tokens look at themselves and at the image, think, and the image looks at them."""

    def __init__(self, size: DecoderSize, is_first: bool, rank: int = 0) -> None:
        super().__init__()
        width, heads = size.width, size.num_heads
        self.is_first = is_first
        self.self_attn = Attention(width, width, heads, rank)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads, rank)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, size.mlp_dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads, rank)

    def forward(
        self, tokens: torch.Tensor, image: torch.Tensor, token_codes: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_first:  # the tokens are nothing but their codes yet
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            coded = tokens + token_codes
            tokens = self.norm1(tokens + self.self_attn(coded, coded, tokens))
        placed = image + places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_codes, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(placed, tokens + token_codes, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Tokens (B, T, C) and features of an image (B, N, C) at `places` (N, C), to the same after they met."""

    def __init__(self, size: DecoderSize, rank: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(size, layer == 0, rank) for layer in range(size.num_layers))
        self.final_attn_token_to_image = Attention(size.width, size.width // 2, size.num_heads, rank)
        self.norm_final_attn = nn.LayerNorm(size.width)

    def forward(
        self, tokens: torch.Tensor, image: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        codes = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, codes, places)
        seen = self.final_attn_token_to_image(tokens + codes, image + places, image)
        return self.norm_final_attn(tokens + seen), image
