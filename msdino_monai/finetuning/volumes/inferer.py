"""A whole volume through a network that sees a few slices at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer


class StackInferer(SlidingWindowInferer):
    """Slides along the depth of (B, 1, H, W, S) and returns class probabilities (B, K, H, W, S).

    Where windows overlap it is their probabilities that are averaged, not their scores: one very sure window does not
    outvote the others. A volume of fewer slices than a window is padded with zeros on both sides, and cut again.

    Args:
        image_size: side of the square a volume's slices lie in.
        num_slices: depth of a window.
        overlap: share of a window's slices that the next one sees again.
        windows: how many go through the network at once.
    """

    def __init__(self, image_size: int, num_slices: int = 5, overlap: float = 0.2, windows: int = 1) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), got {overlap}.")
        roi_size = (image_size, image_size, num_slices)
        super().__init__(roi_size, sw_batch_size=windows, overlap=(0.0, 0.0, overlap), mode="constant")

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def probabilities(stack: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            return torch.as_tensor(network(stack, *more, **named)).float().softmax(dim=1)

        return super().__call__(inputs, probabilities, *args, **kwargs)
