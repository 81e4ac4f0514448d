"""DINO's projection head, standardised over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.distributed import sum_across_ranks


class BatchStandardisation(nn.Module):
    """Zero mean and unit variance of every channel over the rows of all ranks, then a learned scale and shift.

    Features of a fresh body on radiographs are nearly parallel; without this every prototype sees one direction and
    the teacher stays at the uniform distribution. There are no running statistics: student and teacher always
    standardise what they see, and the head does not outlive the pretraining.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            values = rows.float()
            count = sum_across_ranks(values.new_tensor(float(len(values))))
            mean = sum_across_ranks(values.sum(0)) / count
            variance = sum_across_ranks((values - mean).square().sum(0)) / count
            standardised = (values - mean) * (variance + self.epsilon).rsqrt()
            return (standardised * self.weight + self.bias).to(rows.dtype)


class DINOHead(nn.Module):
    """Features (R, hidden_size) to prototype similarities (R, P): an MLP, a bottleneck on the sphere, unit prototypes.

    Args:
        hidden_size: width of the body.
        num_prototypes: P.
        mlp_dim: width of the two hidden layers.
        bottleneck_dim: width before the prototypes.
        standardise: standardise the hidden layers over the batch.
    """

    def __init__(
        self,
        hidden_size: int = 384,
        num_prototypes: int = 4096,
        mlp_dim: int = 2048,
        bottleneck_dim: int = 256,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (hidden_size, mlp_dim):
            layers.append(nn.Linear(width, mlp_dim, bias=not standardise))
            if standardise:
                layers.append(BatchStandardisation(mlp_dim))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(mlp_dim, bottleneck_dim))
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        bottleneck = F.normalize(self.mlp(features), dim=-1)  # (R, hidden_size) -> (R, bottleneck_dim)
        return F.linear(bottleneck, F.normalize(self.prototypes, dim=-1).to(bottleneck.dtype))  # -> (R, P)
