"""NIfTI radiographs: one slice, hung by its affine."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError

from msdino_monai.errors import RadiographError
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.display import hang
from msdino_monai.images.radiograph import MAX_PIXELS, Radiograph, Rules

_DICOM_LETTERS = {"S": "H", "I": "F"}


def read_nifti(path: str | Path, rules: Rules = Rules()) -> Radiograph:  # noqa: B008 -- frozen
    """Read a NIfTI whose air is dark; its first axis becomes the picture's columns where the affine says left-right."""
    try:
        image = nibabel.load(path)
        shape = image.shape
        if not 0 < int(np.prod(shape, dtype=np.int64)) <= MAX_PIXELS:
            raise RadiographError("open", f"shape {shape}", "send one two-dimensional image")
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, ImageFileError, MemoryError) as error:
        raise RadiographError(
            "decode", str(error) or type(error).__name__, "copy the file again from its source"
        ) from error
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    if len(axes) != 2:
        if not rules.allow_first_frame or len(axes) != 3:
            raise RadiographError(
                "frames", f"shape {shape} is not one image", "export one slice, or `allow_first_frame`"
            )
        data, axes = data.take(0, axis=axes[2]), axes[:2]
    pixels = data.squeeze()
    if not np.isrealobj(pixels) or pixels.dtype.fields:
        raise RadiographError("decode", f"values of type {pixels.dtype}", "convert it to grey")
    codes = nibabel.aff2axcodes(image.affine)
    letters = [_DICOM_LETTERS.get(codes[axis] or "", codes[axis] or "") for axis in axes if axis < 3]
    zooms = [float(image.header.get_zooms()[axis]) for axis in axes]
    spacing = (zooms[0], zooms[1]) if all(zoom > 0 for zoom in zooms) else None
    flags = ("likely burned-in text",) if shows_text(pixels) else ()
    # Stored (i, j): i runs along rows of the array, so its letter is where *rows* lead to.
    orientation = hang(letters[1], letters[0]) if len(letters) == 2 else hang("", "")
    values = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    return Radiograph(values, orientation=orientation, spacing=spacing, flags=flags)
