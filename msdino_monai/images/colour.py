"""Colour captures to grey."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def luminance(colours: NDArray[Any]) -> NDArray[np.float32]:
    """Red, green, blue to grey; exact where the three are equal."""
    grey = colours[..., :3].astype(np.float32) @ _WEIGHTS  # (H, W, 3) -> (H, W)
    same = (colours[..., 0] == colours[..., 1]) & (colours[..., 1] == colours[..., 2])
    return np.where(same, colours[..., 0].astype(np.float32), grey)
