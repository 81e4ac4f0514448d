"""How the learning rate of an adaptation runs: a short warm-up, then a polynomial fall."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR


def warmup_polynomial(
    optimizer: torch.optim.Optimizer,
    epoch_length: int,
    max_epochs: int,
    warmup_iterations: int = 250,
    power: float = 0.9,
) -> LambdaLR:
    """A schedule stepped every iteration: linear to the peak, then (1 - share of the rest)**`power` down to zero.

    The warm-up takes at most a quarter of the training, so that a short one gets past it.
    """
    total = epoch_length * max_epochs
    warmup = min(warmup_iterations, total // 4)

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / warmup
        return float(max(0.0, 1 - (iteration - warmup) / max(1, total - warmup)) ** power)

    return LambdaLR(optimizer, factor)
