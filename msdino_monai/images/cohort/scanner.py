"""How each site's machine turns attenuation into stored pixel values."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.marker import draw_marker
from msdino_monai.images.cohort.primitives import Array, Grid, smoothstep
from msdino_monai.images.cohort.smooth import blur, soften

MAX_SITES = len(string.ascii_lowercase)


@dataclass(frozen=True)
class Style:
    """A site's machine, its habits and its patients."""

    model: str
    kilovolts: int
    field: tuple[float, float]  # detector width and height in mm
    magnification: float
    quanta: float  # detected per mm² behind nothing, in thousands: noise
    scatter: float  # scattered over primary radiation
    sharpness: float  # blur of focus and detector in mm
    edge: float  # edge enhancement
    flatten: float  # how much large differences are compressed
    contrast: float  # slope of the gradation curve
    brightness: float  # its middle, from 0 to 1 of the chest's range
    border: float  # collimated margin as a share of the field
    shutter: bool  # the margin is blackened afterwards
    bits: int
    photometric: str
    compressed: float  # share of patients whose files are RLE-compressed
    marker: str
    marker_height: float
    prevalence: tuple[float, ...]  # in the order of FINDINGS, in twentieths

    def matrix(self, image_size: int) -> tuple[int, int]:
        """Rows and columns, the longer side being `image_size`."""
        width, height = self.field
        longest = max(self.field)
        return round(image_size * height / longest), round(image_size * width / longest)

    def pixel_spacing(self, image_size: int) -> float:
        return max(self.field) / image_size


_STYLES = (
    Style(
        model="PHANTOM DX-1", kilovolts=120, field=(430.0, 430.0), magnification=1.09, quanta=110.0, scatter=0.45,
        sharpness=0.30, edge=0.55, flatten=0.22, contrast=3.7, brightness=0.50, border=0.0, shutter=False, bits=12,
        photometric="MONOCHROME2", compressed=0.0, marker="L", marker_height=0.08,
        prevalence=(0.15, 0.15, 0.15, 0.15, 0.10, 0.15),
    ),
    Style(
        model="PHANTOM FLEX", kilovolts=85, field=(350.0, 430.0), magnification=1.12, quanta=17.0, scatter=0.85,
        sharpness=0.62, edge=0.15, flatten=0.05, contrast=3.3, brightness=0.53, border=0.035, shutter=False, bits=14,
        photometric="MONOCHROME1", compressed=0.0, marker="R", marker_height=0.10,
        prevalence=(0.30, 0.20, 0.20, 0.20, 0.10, 0.10),
    ),
    Style(
        model="PHANTOM ULTRA", kilovolts=125, field=(430.0, 400.0), magnification=1.06, quanta=260.0, scatter=0.25,
        sharpness=0.22, edge=0.8, flatten=0.42, contrast=4.3, brightness=0.47, border=0.025, shutter=True, bits=16,
        photometric="MONOCHROME2", compressed=0.25, marker="L", marker_height=0.16,
        prevalence=(0.10, 0.15, 0.10, 0.10, 0.15, 0.20),
    ),
)  # fmt: skip


def site_name(site: int) -> str:
    return f"site_{string.ascii_lowercase[site]}"


def site_style(site: int) -> Style:
    """The style of a site: the first three are written down, further ones are drawn, always the same."""
    if site < len(_STYLES):
        return _STYLES[site]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([731, site])))
    fields = ((430.0, 430.0), (350.0, 430.0), (430.0, 350.0), (430.0, 400.0))
    return Style(
        model=f"PHANTOM {string.ascii_uppercase[site]}-{int(rng.integers(2, 9))}00",
        kilovolts=int(rng.integers(80, 130)),
        field=fields[int(rng.integers(len(fields)))],
        magnification=rng.uniform(1.05, 1.16),
        quanta=float(np.exp(rng.uniform(np.log(18.0), np.log(250.0)))),
        scatter=rng.uniform(0.2, 0.85),
        sharpness=rng.uniform(0.2, 0.6),
        edge=rng.uniform(0.1, 1.1),
        flatten=rng.uniform(0.0, 0.4),
        contrast=rng.uniform(3.2, 4.4),
        brightness=rng.uniform(0.42, 0.55),
        border=rng.uniform(0.0, 0.04),
        shutter=bool(rng.random() < 0.5),
        bits=(12, 14, 16)[int(rng.integers(3))],
        photometric="MONOCHROME1" if rng.random() < 0.3 else "MONOCHROME2",
        compressed=0.25 if rng.random() < 0.3 else 0.0,
        marker="LR"[int(rng.integers(2))],
        marker_height=rng.uniform(0.06, 0.2),
        prevalence=tuple(float(k) / 20.0 for k in rng.integers(2, 6, 6)),
    )


@dataclass(frozen=True)
class Exposure:
    """Stored values, and the window that shows them as the site's radiographer does."""

    stored: npt.NDArray[np.uint16]
    window_centre: float
    window_width: float


def expose(attenuation: Array, grid: Grid, style: Style, dose: float, rng: np.random.Generator) -> Exposure:
    """Beer-Lambert, blur, scatter, quantum noise, logarithm, processing, quantisation."""
    primary = soften(np.exp(-attenuation), max(style.sharpness / grid.spacing, 0.3))
    scattered = style.scatter * blur(primary, 24.0 / grid.spacing)
    signal = primary + scattered
    open_field = _collimation(grid.shape, style, rng)
    signal = signal * open_field + 0.002
    quanta = 1000.0 * style.quanta * dose * grid.spacing**2
    signal = signal + np.sqrt(signal / quanta) * soften(rng.standard_normal(grid.shape), 0.45) * 1.25
    film = -np.log(np.maximum(signal, 0.002))
    display = _process(film, grid, style)
    rows = draw_marker(display, grid, style)
    display = np.where(open_field > 0.5, rows, 0.0) if style.shutter else rows
    return _store(display, style, rng)


def _collimation(shape: tuple[int, int], style: Style, rng: np.random.Generator) -> Array:
    """1 where the beam falls, 0 behind the collimator's leaves, with soft edges."""
    margins = style.border * rng.uniform(0.3, 1.6, 4)
    if style.border == 0.0:
        return np.ones(shape)
    v, u = ((np.arange(n) + 0.5) / n for n in shape)
    width = 0.004
    down = smoothstep(v, margins[0] - width, margins[0] + width) * smoothstep(
        1 - v, margins[1] - width, margins[1] + width
    )
    across = smoothstep(u, margins[2] - width, margins[2] + width) * smoothstep(
        1 - u, margins[3] - width, margins[3] + width
    )
    return np.asarray(down[:, None] * across)


def _process(film: Array, grid: Grid, style: Style) -> Array:
    """Edge enhancement, compression of large differences and the gradation curve, to 0 (black) .. 1 (white)."""
    fine = film - blur(film, max(3.2 / grid.spacing, 2.0))
    broad = blur(film, 42.0 / grid.spacing)
    middle = film[film.shape[0] // 5 : -film.shape[0] // 6, film.shape[1] // 6 : -film.shape[1] // 6]
    low, centre, high = np.percentile(middle[::3, ::3], [4.0, 50.0, 97.0])
    film = film + style.edge * fine - style.flatten * np.clip(broad - centre, -1.0, 1.0)
    low, high = (edge - style.flatten * np.clip(0.7 * (edge - centre), -1, 1) for edge in (low, high))
    tone = (film - low) / (high - low)
    return np.asarray(1.0 / (1.0 + np.exp(-style.contrast * (tone - style.brightness))))


def _store(display: Array, style: Style, rng: np.random.Generator) -> Exposure:
    """Whole numbers that do not fill the range, as from a machine, so that the window matters."""
    top = float(2**style.bits - 1)
    low, high = top * rng.uniform(0.02, 0.06), top * rng.uniform(0.72, 0.92)
    tone = display if style.photometric == "MONOCHROME2" else 1.0 - display
    stored = np.rint(np.clip(low + tone * (high - low), 0.0, top)).astype(np.uint16)
    return Exposure(stored, float(np.rint(0.5 * (low + high))), float(np.rint(0.97 * (high - low))))
