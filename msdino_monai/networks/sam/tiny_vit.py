"""TinyViT (Wu et al., arXiv:2207.10666) as LiteMedSAM has it, under its names.

Its batch normalisations keep the statistics they came with, in training too: stacks of a few slices would spoil them,
and a federation sends parameters, not statistics. So each is folded into its convolution on the way. Features are
grids (B, H, W, C) throughout: pointwise convolutions are then linear maps, and windows need no transposition.
"""

# No `from __future__ import annotations` here: TorchScript must see the types of the buffers, not their names.
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.networks.lora import fused_projection
from msdino_monai.networks.sam.attention import attend
from msdino_monai.networks.sam.layer import Block, neck
from msdino_monai.networks.sam.size import TinyViTSize
from msdino_monai.networks.sam.window import join_windows, split_windows


class FixedNorm(nn.Module):
    """A batch normalisation that keeps its statistics: a factor and a summand for each channel, (C,) each."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))  # unused; public checkpoints have it

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        factor = self.weight * torch.rsqrt(self.running_var + 1e-5)
        return factor, self.bias - self.running_mean * factor


class ConvNorm(nn.Module):
    """A convolution and a batch normalisation in one, of a grid (B, H, W, C): pointwise, or 3 x 3 in each channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.groups, self.is_pointwise = stride, in_channels if kernel > 1 else 1, kernel == 1
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=self.groups, bias=False)
        self.bn = FixedNorm(out_channels)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        factor, bias = self.bn()
        weight = self.c.weight * factor[:, None, None, None]
        if self.is_pointwise:
            return F.linear(grid, weight.flatten(1), bias)
        picture = grid.permute(0, 3, 1, 2)  # a view: convolutions know channels that lie innermost
        picture = F.conv2d(picture, weight, bias, stride=self.stride, padding=1, groups=self.groups)
        return picture.permute(0, 2, 3, 1)


class PatchEmbedding(nn.Module):
    """A picture's colours to features, pixel by pixel: (B, H, W, 3) to (B, H, W, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2), nn.GELU(), ConvNorm(width // 2, width))

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return self.seq(grid)  # type: ignore[no-any-return]


class ConvBlock(Block):
    """MobileNet's inverted bottleneck."""

    def __init__(self, width: int, ratio: int, recompute: bool = False) -> None:
        super().__init__(recompute)
        self.conv1 = ConvNorm(width, ratio * width)
        self.conv2 = ConvNorm(ratio * width, ratio * width, 3)
        self.conv3 = ConvNorm(ratio * width, width)
        self.act = nn.GELU()

    def branches(self, features: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.conv2(self.act(self.conv1(features))))
        return self.act(features + self.conv3(inner))  # type: ignore[no-any-return]


class Merging(nn.Module):
    """The way from one stage to the next: another width and, with stride 2, half the resolution."""

    def __init__(self, width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, out_width)
        self.conv2 = ConvNorm(out_width, out_width, 3, stride)
        self.conv3 = ConvNorm(out_width, out_width)
        self.act = nn.GELU()

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(grid)))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention inside a window of tokens (B, window * window, C), with a learnt bias for each distance."""

    distance: torch.Tensor

    def __init__(self, width: int, num_heads: int, window: int, rank: int = 0) -> None:
        super().__init__()
        self.scale = (width // num_heads) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.qkv = fused_projection(width, num_heads, rank, heads_first=True)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        rows, columns = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
        apart = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("distance", apart, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm(tokens))
        bias = self.attention_biases[:, self.distance].to(query.dtype)  # (heads, N, N)
        return self.proj(attend(query, key, value, self.scale, bias))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers behind a normalisation."""

    def __init__(self, width: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)
        self.act = nn.GELU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(self.norm(features))))  # type: ignore[no-any-return]


class AttentionBlock(Block):
    """Windowed attention, a convolution that knows no windows, and an MLP."""

    def __init__(
        self, width: int, num_heads: int, window: int, ratio: int, rank: int = 0, recompute: bool = False
    ) -> None:
        super().__init__(recompute)
        self.window = window
        self.attn = Attention(width, num_heads, window, rank)
        self.local_conv = ConvNorm(width, width, 3)
        self.mlp = MLP(width, ratio * width)

    def branches(self, features: torch.Tensor) -> torch.Tensor:
        windows = self.attn(split_windows(features, self.window))
        features = features + join_windows(windows, self.window, features.shape[1], features.shape[2])
        features = self.local_conv(features)
        return features + self.mlp(features)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks at one resolution, and the way to the next."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            grid = block(grid)
        return self.downsample(grid)  # type: ignore[no-any-return]


class TinyViTEncoder(nn.Module):
    """Pictures (B, 3, H, W) to features (B, out_channels, H / 4, W / 4).

    Args:
        size: of the encoder.
        out_channels: the decoder's width.
        rank: of the adapters of every attention's queries and values; 0: none.
        checkpoint_blocks: recompute the blocks on the way back: less memory, more time.
    """

    def __init__(self, size: TinyViTSize, out_channels: int, rank: int = 0, checkpoint_blocks: bool = False) -> None:
        super().__init__()
        widths, ratio = size.widths, size.mlp_ratio
        self.patch_embed = PatchEmbedding(widths[0])
        stages = []
        for stage, width in enumerate(widths):
            blocks: list[nn.Module] = []
            for _ in range(size.depths[stage]):
                if stage == 0:
                    blocks.append(ConvBlock(width, ratio, checkpoint_blocks))
                else:
                    heads, window = size.num_heads[stage], size.windows[stage]
                    blocks.append(AttentionBlock(width, heads, window, ratio, rank, checkpoint_blocks))
            last = stage == len(widths) - 1
            downsample = nn.Identity() if last else Merging(width, widths[stage + 1], size.strides[stage])
            stages.append(Stage(blocks, downsample))
        self.layers = nn.ModuleList(stages)
        self.neck = neck(widths[-1], out_channels)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        grid = self.patch_embed(picture.permute(0, 2, 3, 1))
        for stage in self.layers:
            grid = stage(grid)
        return self.neck(grid.permute(0, 3, 1, 2))  # type: ignore[no-any-return]
