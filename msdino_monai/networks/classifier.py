"""An encoder and one linear layer: what a radiograph shows."""

from __future__ import annotations

import torch
from torch import nn

from msdino_monai.networks.image_encoder import ImageEncoder


class Classifier(nn.Module):
    """Images (B, 1, H, W) in [0, 1] to logits (B, C), one for each class.

    The head reads the class token beside the mean of the patches' features: the first is what self-distillation
    trained, the second learns faster from few labels.

    Args:
        encoder: what turns images into features.
        num_classes: C.
        dropout_rate: share of features dropped before the head.
    """

    def __init__(self, encoder: ImageEncoder, num_classes: int, dropout_rate: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1), got {dropout_rate}.")
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout_rate)
        self.head = nn.Linear(2 * encoder.body.hidden_size, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classify(self.encoder.features(image))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of the class token's and the patches' features (B, 1 + N, hidden_size)."""
        return self.head(self.dropout(self.pooled(features)))  # type: ignore[no-any-return]

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """What the head reads, (B, 2 * hidden_size)."""
        return torch.cat([features[:, 0], features[:, 1:].mean(dim=1)], dim=-1)
