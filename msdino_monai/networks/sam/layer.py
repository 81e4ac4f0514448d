"""Small layers that SAM's encoders and its decoder share, under SAM's names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch._jit_internal import is_scripting
from torch.utils.checkpoint import checkpoint


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a picture (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        last = picture.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Block(nn.Module):
    """One block of an encoder, whose `branches` are recomputed on the way back if `recompute` is set."""

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not is_scripting():  # noqa: SIM102 (TorchScript knows no checkpointing and looks past exactly this)
            if self.recompute and self.training and torch.is_grad_enabled():
                return checkpoint(self.branches, features, use_reentrant=False)  # type: ignore[no-any-return]
        return self.branches(features)

    def branches(self, features: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, mlp_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, width)
        self.act = activation

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.lin2(self.act(self.lin1(features)))  # type: ignore[no-any-return]


def neck(in_channels: int, out_channels: int) -> nn.Sequential:
    """What brings an encoder's features to the decoder's width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        ChannelNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        ChannelNorm(out_channels),
    )
