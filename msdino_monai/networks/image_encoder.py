"""Patch embedding and body in one: what turns a radiograph into features."""

from __future__ import annotations

import torch
from torch import nn

from msdino_monai.networks.patch_embedding import PatchEmbedding
from msdino_monai.networks.vit import ViTBody


class ImageEncoder(nn.Module):
    """Images (B, 1, H, W) in [0, 1] to the feature of the class token (B, hidden_size).

    Its state dict is what a backbone file holds: `embedding.weight` and `body.*`.
    """

    def __init__(self, embedding: PatchEmbedding, body: ViTBody) -> None:
        super().__init__()
        self.embedding = embedding
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features(image)[:, 0]  # (B, 1 + N, hidden_size) -> (B, hidden_size)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """The class token's and the patches' features, (B, 1 + N, hidden_size)."""
        return self.body(self.embedding(image))  # type: ignore[no-any-return]
