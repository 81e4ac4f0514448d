"""From a scanner's numbers to [0, 1]: a fixed window for CT, percentiles for everything without a unit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from msdino_monai.errors import RadiographError, UserError

_ENOUGH = 1 << 21  # voxels from which percentiles are known well enough


class WindowVolumed(MapTransform):
    """Spreads a range of values over [0, 1] and cuts what lies beyond.

    Args:
        keys: the volumes.
        intensity_range: the lowest and the highest value, in the file's unit (HU for CT).
        intensity_percentiles: of each volume's own voxels, in place of a range; for MR.
    """

    def __init__(self, keys: KeysCollection, intensity_range: Any, intensity_percentiles: Any = None) -> None:
        super().__init__(keys)
        self.percentiles = None
        if intensity_percentiles is not None:
            self.percentiles = _pair("intensity_percentiles", intensity_percentiles)
            if self.percentiles[0] < 0 or self.percentiles[1] > 100:
                raise UserError(f"--intensity_percentiles must lie in 0,100, got {intensity_percentiles}.")
        self.range = _pair("intensity_range", intensity_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        windowed = dict(data)
        for key in self.key_iterator(windowed):
            volume = windowed[key]
            low, high = self.range if self.percentiles is None else percentiles_of(volume, self.percentiles)
            shown = (volume - low).div_(high - low).clamp_(0.0, 1.0) if high > low else None
            if shown is None or shown.min() == shown.max():
                reason = f"nothing can be told apart between {low:g} and {high:g}"
                raise RadiographError("window", reason, "set `intensity_range` or `intensity_percentiles`")
            windowed[key] = shown
        return windowed


def percentiles_of(volume: torch.Tensor, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles of a volume's voxels; of evenly spread ones where there are millions."""
    voxels = volume.detach().cpu().numpy().reshape(-1)
    low, high = np.percentile(voxels[:: max(1, len(voxels) // _ENOUGH)], percentiles)
    return float(low), float(high)


def _pair(name: str, value: Any) -> tuple[float, float]:
    """Two rising numbers."""
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not all(isinstance(each, (int, float)) for each in numbers) or numbers[0] >= numbers[1]:
        raise UserError(f"--{name} must be two numbers, the lower one first, got {value!r}; write --{name} 1,99.")
    return float(numbers[0]), float(numbers[1])
