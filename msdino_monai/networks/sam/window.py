"""Square windows of a grid of tokens, padded with zeros at the right and at the bottom."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def split_windows(grid: torch.Tensor, window: int) -> torch.Tensor:
    """A grid (B, H, W, C) as windows (B * windows, window * window, C)."""
    count, height, width, channels = grid.shape
    below, right = -height % window, -width % window
    if below + right > 0:
        grid = F.pad(grid, (0, 0, 0, right, 0, below))
    rows, columns = (height + below) // window, (width + right) // window
    grid = grid.view(count, rows, window, columns, window, channels).transpose(2, 3)
    return grid.reshape(count * rows * columns, window * window, channels)


def join_windows(windows: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """What `split_windows` made, as a grid (B, height, width, C) again; the padding is cut off."""
    rows, columns = -(-height // window), -(-width // window)
    channels = windows.shape[-1]
    grid = windows.view(-1, rows, columns, window, window, channels).transpose(2, 3)
    return grid.reshape(-1, rows * window, columns * window, channels)[:, :height, :width]
