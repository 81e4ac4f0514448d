"""Attention itself, the way that is fastest where it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Scores for each head above which they are never laid out: SAM's global blocks at 1024 pixels have 4,096 x 4,096.
LARGEST_SCORES = 768 * 768


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None = None,
    largest_scores: int = LARGEST_SCORES,
) -> torch.Tensor:
    """Softmax of scale * q k + bias, times v: (B, heads, N, D) and (B, heads, M, D) to (B, N, heads * D).

    PyTorch's fused kernel is faster on GPUs and needs less memory; on CPUs plain products are, for few tokens.
    """
    if query.is_cuda or query.shape[-2] * key.shape[-2] > largest_scores:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    else:
        scores = (query * scale) @ key.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        attended = scores.softmax(dim=-1) @ value
    return attended.transpose(1, 2).flatten(2)  # (B, heads, N, D) -> (B, N, heads * D)
