"""SAM's prompt encoder, asked for nothing: what the decoder gets in place of points, boxes and masks.

Only the code of "no mask" and the positions of the image's features are used. Points, boxes and masks keep their
weights all the same, so that a public checkpoint loads whole and full fine-tuning counts what it is known to count.
"""

# No `from __future__ import annotations` here: TorchScript must see the types of the buffers, not their names.
import math

import torch
from torch import nn

from msdino_monai.networks.sam.layer import ChannelNorm


class RandomPositions(nn.Module):
    """Sines and cosines of random directions (Tancik et al., arXiv:2006.10739)."""

    positional_encoding_gaussian_matrix: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, height: int, width: int) -> torch.Tensor:
        """Codes of a grid, row by row, (height * width, C)."""
        directions = self.positional_encoding_gaussian_matrix
        rows = (torch.arange(height, device=directions.device) + 0.5) / height
        columns = (torch.arange(width, device=directions.device) + 0.5) / width
        places = torch.stack([columns.repeat(height), rows.repeat_interleave(width)], dim=1)  # x before y
        waves = 2 * math.pi * ((2 * places - 1) @ directions)
        return torch.cat([waves.sin(), waves.cos()], dim=1)


class PromptEncoder(nn.Module):
    """The codes of a grid's places (h * w, C), and of having no mask (1, C).

    Args:
        width: C.
        channels: of the layers that read masks.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.pe_layer = RandomPositions(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, channels // 4, 2, stride=2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.Conv2d(channels // 4, channels, 2, stride=2),
            ChannelNorm(channels),
            nn.GELU(),
            nn.Conv2d(channels, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pe_layer(height, width), self.no_mask_embed.weight
