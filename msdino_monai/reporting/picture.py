"""A picture inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from msdino_monai.errors import UserError

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """PNG or JPEG bytes, a file of them, or an array: grey (H, W), RGB (H, W, 3); uint8, or floats from 0 to 1.

    `alt` tells what is to be seen to those who cannot see it. A picture wider than `widest` is made smaller.
    `crisp` shows the pixels of a small picture as squares.
    """

    source: bytes | str | Path | NDArray[Any]
    alt: str
    caption: str = ""
    widest: int = 1200
    crisp: bool = False

    def html(self) -> str:
        data, kind, (width, height) = self._encoded()
        crisp = ' class="crisp"' if self.crisp else ""
        note = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        size = f'width="{width}" height="{height}"'  # room is kept before it is decoded
        return f'<figure><img{crisp} src="{address}" alt="{escape(self.alt)}" {size}>{note}</figure>'

    def _encoded(self) -> tuple[bytes, str, tuple[int, int]]:
        if isinstance(self.source, np.ndarray):
            return _as_png(self._shrunk(Image.fromarray(_as_bytes(self.source))))
        data, name = (self.source, "the picture") if isinstance(self.source, bytes) else _read(Path(self.source))
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise UserError(f"{name} is not a whole PNG or JPEG; make it again or take it away.") from error
        if image.width > self.widest or image.format not in _TYPES:
            return _as_png(self._shrunk(image))
        return data, _TYPES[image.format], image.size

    def _shrunk(self, image: Image.Image) -> Image.Image:
        if image.width <= self.widest:
            return image
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGB")
        height = max(1, round(image.height * self.widest / image.width))
        return image.resize((self.widest, height), Image.Resampling.LANCZOS)


def _read(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path.") from error


def _as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or 0 in pixels.shape:
        raise ValueError(f"a picture is (H, W) or (H, W, 3), got {pixels.shape}.")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.float32)
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.floating):
            raise ValueError(f"a picture is uint8, bool or floats from 0 to 1, got {pixels.dtype}.")
        pixels = np.round(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _as_png(image: Image.Image) -> tuple[bytes, str, tuple[int, int]]:
    buffer = io.BytesIO()
    (image if image.mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGB")).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), "image/png", image.size
