"""The ViT body: tokens in, features out; it knows neither pixels nor positions."""

from __future__ import annotations

import torch
from monai.networks.blocks import TransformerBlock
from torch import nn


class ViTBody(nn.Module):
    """Tokens (B, N, D) to a class token and token features (B, 1 + N, hidden_size).

    Without position codes its class token does not depend on the order of the tokens, and neither does any token's
    feature: this is why a shuffled export can be learnt from at all.

    Args:
        embedding_dim: D of the exported tokens; a linear map brings them to `hidden_size`.
        hidden_size: width of the body.
        mlp_dim: width inside the blocks.
        num_layers: transformer blocks.
        num_heads: attention heads.
    """

    def __init__(
        self,
        embedding_dim: int = 128,
        hidden_size: int = 384,
        mlp_dim: int = 1536,
        num_layers: int = 12,
        num_heads: int = 6,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads {num_heads}, got {hidden_size}.")
        self.to_hidden = nn.Linear(embedding_dim, hidden_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, mlp_dim, num_heads, qkv_bias=True) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.to_hidden(tokens)  # (B, N, D) -> (B, N, hidden_size)
        hidden = torch.cat([self.cls_token.expand(len(hidden), -1, -1), hidden], dim=1)  # -> (B, 1 + N, hidden_size)
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)  # type: ignore[no-any-return]
