"""What every reader returns, and the rules by which a radiograph is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Computed and digital radiography, fluoroscopy, radiographic film, and what secondary captures call themselves.
RADIOGRAPH_MODALITIES = ("CR", "DX", "RF", "RG", "OT", "SC", "")

# Larger than any detector: a header that claims more is broken or hostile.
MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Rules:
    """Which files a hospital is willing to use; whatever they refuse is quarantined with the setting's name."""

    modalities: Sequence[str] | None = RADIOGRAPH_MODALITIES
    allow_lateral: bool = False
    allow_burned_in_annotation: bool = False
    allow_first_frame: bool = False
    allow_for_processing: bool = False


@dataclass(frozen=True)
class Orientation:
    """How stored rows and columns become the picture a radiologist sees: transpose first, then flip."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn the last two dimensions upright."""
        if self.transpose:
            pixels = pixels.transpose(-2, -1)  # (..., H, W) -> (..., W, H)
        flipped = [dim for dim, flip in ((-2, self.flip_rows), (-1, self.flip_columns)) if flip]
        return pixels.flip(flipped) if flipped else pixels


@dataclass(frozen=True)
class Window:
    """What a DICOM window shows of stored values (PS3.3 C.11.2.1.2), in any linear scale: `stretch` settles that."""

    center: float
    width: float
    smooth: bool = False  # the function SIGMOID

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        shown = stored.astype(np.float32)
        if self.smooth:
            torch.from_numpy(shown).sub_(self.center).mul_(4.0 / self.width).sigmoid_()  # numpy has none
            return shown
        return shown.clip(self.center - self.width / 2, self.center + self.width / 2, out=shown)


@dataclass(frozen=True)
class Radiograph:
    """Stored values (H, W) in the file's own grid, in any linear scale, and how to show them."""

    stored: NDArray[Any] | torch.Tensor
    inverted: bool = False  # dense tissue has the low values
    orientation: Orientation = Orientation()
    spacing: tuple[float, float] | None = None  # mm between rows, between columns; only their ratio shapes the picture
    flags: tuple[str, ...] = ()
    window: Window | None = None  # None where it would cut nothing
    patient: str = field(default="", repr=False)  # the header's PatientID, if the reader was asked for it

    @property
    def pixels(self) -> torch.Tensor:
        """All pixels (H, W), windowed."""
        stored = np.asarray(self.stored)
        return torch.from_numpy(self.window(stored) if self.window else stored.astype(np.float32))

    @property
    def aspect(self) -> float:
        """Row spacing over column spacing; 1 where the header holds none or a nonsense."""
        rows, columns = self.spacing or (1.0, 1.0)
        plausible = all(1e-3 < spacing < 1e3 for spacing in (rows, columns)) and 0.01 < rows / columns < 100
        return rows / columns if plausible else 1.0
