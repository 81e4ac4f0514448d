"""PNG and JPEG radiographs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from msdino_monai.errors import RadiographError
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.colour import luminance
from msdino_monai.images.radiograph import MAX_PIXELS, Orientation, Radiograph

# EXIF's eight orientations as transpose, flip rows, flip columns of the stored picture.
_EXIF = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def read_raster(path: str | Path) -> Radiograph:
    """Read a PNG or JPEG whose air is dark, in 8 or 16 bit, grey, palette or colour."""
    _refuse_deep_colour(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise RadiographError("open", f"{image.height} x {image.width} pixels", "send a smaller image")
                orientation = _EXIF.get(image.getexif().get(ExifTags.Base.Orientation, 1), Orientation())
                pixels = _to_array(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RadiographError(
            "decode", str(error) or type(error).__name__, "copy the file again from its source"
        ) from error
    flags = ("likely burned-in text",) if shows_text(pixels) else ()
    return Radiograph(pixels, orientation=orientation, flags=flags)


def _refuse_deep_colour(path: str | Path) -> None:
    """Pillow reads 16-bit colour as 8-bit, and would cut a 12-bit radiograph down to 16 greys without a word."""
    with Path(path).open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG") and len(head) == 26 and head[24] == 16 and head[25] != 0:
        raise RadiographError("decode", "a PNG with 16-bit colour or transparency", "save it as 16-bit grey")


def _to_array(image: Image.Image) -> NDArray[Any]:
    if image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode in ("P", "CMYK", "YCbCr", "PA", "RGBA", "LA") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        black = Image.new("RGBA", opaque.size, "black")
        image = Image.alpha_composite(black, opaque).convert("RGB")  # what is transparent shows air
    pixels = np.asarray(image)
    return luminance(pixels) if pixels.ndim == 3 else pixels
