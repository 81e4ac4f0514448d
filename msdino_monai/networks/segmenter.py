"""The encoder with a UNETR-like decoder: what turns a radiograph into scores for every pixel and class."""

from __future__ import annotations

import torch
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import nn

from msdino_monai.networks.image_encoder import ImageEncoder

_NORM = "instance"  # batches are small, and ranks hold different ones


class Segmenter(nn.Module):
    """Images (B, 1, H, W) in [0, 1] to scores before softmax or sigmoid, (B, C, H, W).

    UNETR (Hatamizadeh et al., arXiv:2103.10504) brings hidden states of several depths of the body back to pixels. A
    convolutional stem joins them at every scale here, because a token of 16 x 16 pixels knows no fine edge.

    Args:
        encoder: patch embedding and body; its patch size must be a power of two.
        out_channels: C, the background included where classes exclude each other.
        feature_size: channels at full resolution; they double with every halving.
    """

    def __init__(self, encoder: ImageEncoder, out_channels: int, feature_size: int = 16) -> None:
        super().__init__()
        patch_size = encoder.embedding.patch_size
        scales = patch_size.bit_length() - 1
        if scales < 1 or patch_size != 2**scales:
            raise ValueError(f"patch_size must be 2, 4, 8, 16 or 32 for a segmentation, got {patch_size}.")
        if min(out_channels, feature_size) < 1:
            raise ValueError(f"out_channels and feature_size start at 1, got {out_channels} and {feature_size}.")
        self.encoder, self.feature_size = encoder, feature_size
        self.grid = encoder.embedding.img_size // patch_size
        depths = [depth_of_scale(len(encoder.body.blocks), scale, scales) for scale in range(scales, 0, -1)]
        self.depths = sorted(set(depths))
        self.places = [self.depths.index(depth) for depth in depths]  # where each scale finds its hidden state
        hidden_size = encoder.body.hidden_size
        widths = [feature_size * 2**scale for scale in range(scales)]
        self.stem = nn.ModuleList(
            UnetrBasicBlock(2, inside, outside, 3, stride, _NORM, res_block=True)
            for inside, outside, stride in zip([1, *widths[:-1]], widths, [1] + [2] * (scales - 1), strict=True)
        )
        self.rises = nn.ModuleList(
            Rise(hidden_size, inside, outside, scales - 1 - step, step)
            for step, (inside, outside) in enumerate(zip([hidden_size, *widths[:0:-1]], widths[::-1], strict=True))
        )
        self.out = UnetOutBlock(2, feature_size, out_channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        states = self.encoder.body.hidden_states(self.encoder.embedding(image), self.depths)
        edges = [image]
        for block in self.stem:
            edges.append(block(edges[-1]))  # (B, F, H, W), (B, 2F, H/2, W/2), ...
        decoded = self.as_picture(states[-1])
        for step, rise in enumerate(self.rises):
            next_state = self.as_picture(states[self.places[min(step + 1, len(self.places) - 1)]])
            decoded = rise(decoded, edges[len(edges) - 1 - step], next_state)
        return self.out(decoded)  # type: ignore[no-any-return]

    def as_picture(self, state: torch.Tensor) -> torch.Tensor:
        """Patches' features as channels of a picture, (B, 1 + N, hidden_size) -> (B, hidden_size, h, w)."""
        return state[:, 1:].transpose(1, 2).reshape(state.shape[0], state.shape[2], self.grid, self.grid)


class Rise(nn.Module):
    """One doubling of the resolution: what was decoded so far, the stem's edges, and a hidden state that rises beside.

    Args:
        hidden_size: channels of the hidden state.
        in_channels: channels of what was decoded so far.
        out_channels: channels of the edges, and of the result.
        scale: halvings that are left after this one is undone; at none the edges stand alone, as in UNETR.
        doublings: by how many doublings the hidden state is below what was decoded so far.
    """

    def __init__(self, hidden_size: int, in_channels: int, out_channels: int, scale: int, doublings: int) -> None:
        super().__init__()
        self.lateral = (
            UnetrPrUpBlock(2, hidden_size, out_channels, doublings, 3, 1, 2, _NORM, conv_block=True, res_block=True)
            if scale
            else None
        )
        self.up = UnetrUpBlock(2, in_channels, out_channels, 3, 2, _NORM, res_block=True)

    def forward(self, decoded: torch.Tensor, edges: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        if self.lateral is not None:
            edges = edges + self.lateral(state)
        return self.up(decoded, edges)  # type: ignore[no-any-return]


def depth_of_scale(num_layers: int, scale: int, scales: int) -> int:
    """The block whose output meets this scale: the last one at the coarsest, an early one at the finest."""
    return -(-num_layers * scale // scales) - 1
