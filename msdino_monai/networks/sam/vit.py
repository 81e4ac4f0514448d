"""SAM's image encoder: a ViT with windows and decomposed relative positions (Li et al., arXiv:2203.16527)."""

# No `from __future__ import annotations` here: TorchScript must see the types of the buffers, not their names.
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.networks.lora import fused_projection
from msdino_monai.networks.sam.attention import attend
from msdino_monai.networks.sam.layer import MLP, Block, neck
from msdino_monai.networks.sam.size import ViTSize
from msdino_monai.networks.sam.window import join_windows, split_windows


class Attention(nn.Module):
    """Attention over a square of tokens (B, side * side, C) that knows how far apart they are.

    The score of a query at row r, column c and a key at row s, column t grows by q . h[r - s] + q . w[c - t]. Both
    products join the query as `2 * side` more channels, and the key gets a one for its row and a one for its column:
    the score of the longer vectors is the sum, and no bias of the size of the scores is ever laid out. GPUs' kernels
    want vectors of a multiple of 8 channels, so zeros fill them up.
    """

    distance: torch.Tensor
    place: torch.Tensor

    def __init__(self, width: int, num_heads: int, side: int, rank: int = 0) -> None:
        super().__init__()
        head_dim = width // num_heads
        self.side, self.scale, self.spare = side, head_dim**-0.5, -(head_dim + 2 * side) % 8
        self.qkv = fused_projection(width, num_heads, rank)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        steps = torch.arange(side)
        self.register_buffer("distance", steps[:, None] - steps[None, :] + side - 1, persistent=False)
        ones = torch.eye(side)
        place = torch.cat([ones.repeat_interleave(side, dim=0), ones.repeat(side, 1)], dim=1)
        place = F.pad(place, (0, self.spare))
        self.register_buffer("place", place, persistent=False)  # (N, 2 * side + spare)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(tokens)  # (B, heads, N, D) each
        count, heads, _, _ = query.shape
        squares = query.unflatten(2, (self.side, self.side))
        by_row = self.rel_pos_h[self.distance].to(query.dtype)  # (side, side, D)
        by_column = F.pad(self.rel_pos_w[self.distance].to(query.dtype), (0, 0, 0, self.spare))
        rows = torch.einsum("bnhwd,hkd->bnhwk", squares, by_row).flatten(2, 3)
        columns = torch.einsum("bnhwd,wkd->bnhwk", squares, by_column).flatten(2, 3)
        query = torch.cat([query * self.scale, rows, columns], dim=-1)  # (B, heads, N, D + 2 * side + spare)
        key = torch.cat([key, self.place.to(key.dtype).expand(count, heads, -1, -1)], dim=-1)
        return self.proj(attend(query, key, value, 1.0))  # type: ignore[no-any-return]


class ViTBlock(Block):
    """A transformer block on a grid of tokens (B, H, W, C); `window` 0 attends to the whole grid."""

    def __init__(self, size: ViTSize, grid: int, window: int, rank: int = 0, recompute: bool = False) -> None:
        super().__init__(recompute)
        self.window = window or grid
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.num_heads, self.window, rank)
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = MLP(size.width, size.mlp_ratio * size.width, nn.GELU())

    def branches(self, features: torch.Tensor) -> torch.Tensor:
        windows = self.attn(split_windows(self.norm1(features), self.window))
        features = features + join_windows(windows, self.window, features.shape[1], features.shape[2])
        return features + self.mlp(self.norm2(features))  # type: ignore[no-any-return]


class PatchProjection(nn.Module):
    """Pictures (B, 3, H, W) to a grid of tokens (B, h, w, C)."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.proj(picture).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class ViTEncoder(nn.Module):
    """Pictures (B, 3, H, W) to features (B, out_channels, h, w).

    Args:
        size: of the transformer.
        image_size: H and W, a multiple of the patch size.
        out_channels: the decoder's width.
        rank: of the adapters of every block's queries and values; 0: none.
        checkpoint_blocks: recompute the blocks on the way back: less memory, more time.
    """

    def __init__(
        self, size: ViTSize, image_size: int, out_channels: int, rank: int = 0, checkpoint_blocks: bool = False
    ) -> None:
        super().__init__()
        grid = image_size // size.patch_size
        self.patch_embed = PatchProjection(size.width, size.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, size.width))
        self.blocks = nn.ModuleList(
            ViTBlock(size, grid, 0 if layer in size.global_layers else size.window, rank, checkpoint_blocks)
            for layer in range(size.num_layers)
        )
        self.neck = neck(size.width, out_channels)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        grid = self.patch_embed(picture) + self.pos_embed
        for block in self.blocks:
            grid = block(grid)
        return self.neck(grid.permute(0, 3, 1, 2))  # type: ignore[no-any-return]
