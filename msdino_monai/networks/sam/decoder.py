"""SAM's mask decoder with upscaling to full resolution and one token for each class (FLAP-SAM, arXiv:2407.21739)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.networks.sam.size import DecoderSize
from msdino_monai.networks.sam.two_way import TwoWayTransformer


class Doubling(nn.Module):
    """A transposed convolution, 2 x 2 with stride 2, on tokens: (B, N, in_channels) to (B, 4 N, out_channels).

    Each token becomes four in its place, not yet where a picture has them: `Upscaling.picture` moves the few channels
    of the result once, in place of all channels at every step.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, 2, 2))  # as nn.ConvTranspose2d has it
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (in, out, 2, 2) -> (4 * out, in)
        children = F.linear(tokens, weight, self.bias.repeat(4))
        return children.view(tokens.shape[0], -1, self.bias.shape[0])


class Upscaling(nn.Sequential):
    """Features of an image, doubled until they have its resolution; normalised after every stage but the last."""

    def __init__(self, width: int, stages: int) -> None:
        layers: list[nn.Module] = []
        widths = [width, *(width // 2 ** (stage + 2) for stage in range(stages))]
        for stage in range(stages):
            layers.append(Doubling(widths[stage], widths[stage + 1]))
            if stage < stages - 1:
                layers.append(nn.LayerNorm(widths[stage + 1], eps=1e-6))
            layers.append(nn.GELU())
        super().__init__(*layers)
        self.stages, self.scale, self.out_channels = stages, 2**stages, widths[-1]
        rows, columns = [1, *range(3, 3 + 2 * stages, 2)], [2, *range(4, 4 + 2 * stages, 2)]
        self.order = [0, 3 + 2 * stages, *rows, *columns]

    def picture(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The tokens of a (height, width) grid after all stages, (B, N, K), as (B, K, height * s, width * s)."""
        count, _, channels = tokens.shape
        tokens = tokens.view([count, height, width] + [2] * (2 * self.stages) + [channels])
        return tokens.permute(self.order).reshape(count, channels, height * self.scale, width * self.scale)


class Hypernetwork(nn.Module):
    """What turns a class's token into the weights of its last layer, (B, in_channels) to (B, out_channels)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = [in_channels, in_channels, in_channels, out_channels]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            token = layer(token if index == 0 else F.relu(token))
        return token


class MaskDecoder(nn.Module):
    """Features of an image (B, C, h, w) to logits (B, out_channels, h * 2^stages, w * 2^stages).

    The token and the head that guess a mask's quality are SAM's: the token takes part in the attention, the head is
    kept for its weights and asked nothing.

    Args:
        size: of the transformer.
        out_channels: classes, the background included.
        stages: doublings between the features and the image.
        rank: of the adapters of every attention's queries and values; 0: none.
    """

    def __init__(self, size: DecoderSize, out_channels: int, stages: int, rank: int = 0) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(size, rank)
        self.iou_token = nn.Embedding(1, size.width)
        self.mask_tokens = nn.Embedding(out_channels, size.width)
        self.output_upscaling = Upscaling(size.width, stages)
        self.output_hypernetworks_mlps = nn.ModuleList(
            Hypernetwork(size.width, self.output_upscaling.out_channels) for _ in range(out_channels)
        )
        self.iou_prediction_head = Hypernetwork(size.width, out_channels)

    def forward(self, features: torch.Tensor, places: torch.Tensor, no_mask: torch.Tensor) -> torch.Tensor:
        count, _, height, width = features.shape
        image = features.flatten(2).transpose(1, 2) + no_mask  # (B, C, h, w) -> (B, N, C)
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(count, -1, -1)
        tokens, image = self.transformer(tokens, image, places)
        weights = []
        for index, hypernetwork in enumerate(self.output_hypernetworks_mlps):
            weights.append(hypernetwork(tokens[:, 1 + index]))
        upscaled = self.output_upscaling(image)  # (B, N, C) -> (B, N * 4^stages, c)
        logits = upscaled @ torch.stack(weights, dim=2)  # (B, c, out_channels)
        return self.output_upscaling.picture(logits, height, width)
