"""NIfTI radiographs: one slice, hung by its affine."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import torch

from msdino_monai.errors import RadiographError, one_line
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.colour import luminance
from msdino_monai.images.display import hang
from msdino_monai.images.radiograph import MAX_PIXELS, Orientation, Radiograph, Rules

_DICOM_LETTERS = {"S": "H", "I": "F"}


def read_nifti(path: str | Path, rules: Rules = Rules()) -> Radiograph:  # noqa: B008 -- frozen
    """Read a NIfTI whose air is dark; its first axis becomes the picture's columns where the affine says left-right."""
    image = _load(path)
    shape = image.shape
    if not 0 < math.prod(shape) <= MAX_PIXELS:
        raise RadiographError("open", f"shape {shape}", "send one two-dimensional image")
    try:
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # broken streams and headers raise anything
        raise RadiographError("decode", one_line(error), "copy the file again from its source") from error
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    if len(axes) != 2:
        if not rules.allow_first_frame or len(axes) != 3:
            raise RadiographError(
                "frames", f"shape {shape} is not one image", "export one slice, or `allow_first_frame`"
            )
        data, axes = data.take(0, axis=axes[2]), axes[:2]
    pixels = data.squeeze()
    if pixels.dtype.fields:
        pixels = luminance(np.stack([pixels[name] for name in ("R", "G", "B")], axis=-1))
    if not np.isrealobj(pixels):
        raise RadiographError("decode", f"values of type {pixels.dtype}", "convert it to grey")
    codes = nibabel.aff2axcodes(image.affine) if np.isfinite(image.affine).all() else ("", "", "")
    letters = [_DICOM_LETTERS.get(codes[axis] or "", codes[axis] or "") for axis in axes if axis < 3]
    zooms = [float(image.header.get_zooms()[axis]) for axis in axes]
    spacing = (zooms[0], zooms[1]) if all(zoom > 0 for zoom in zooms) else None
    flags = ("likely burned-in text",) if shows_text(pixels) else ()
    # Stored (i, j): i runs along rows of the array, so its letter is where *rows* lead to.
    orientation = hang(letters[1], letters[0]) if len(letters) == 2 else Orientation()
    values = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    return Radiograph(values, orientation=orientation, spacing=spacing, flags=flags)


def _load(path: str | Path) -> nibabel.Nifti1Image:
    """By content: `.nii`, `.nii.gz` or any other name."""
    data = Path(path).read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = _inflate(data)
        kind = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
        return kind.from_bytes(data)
    except RadiographError:
        raise
    except Exception as error:  # broken streams and headers raise anything
        raise RadiographError("decode", one_line(error), "copy the file again from its source") from error


def _inflate(data: bytes) -> bytes:
    """Gunzip up to what the largest image may take."""
    stream = zlib.decompressobj(wbits=31)
    inflated = stream.decompress(data, 8 * MAX_PIXELS)
    if not stream.eof:
        raise RadiographError("decode", "a cut or oversized gzip stream", "copy the file again from its source")
    return inflated
