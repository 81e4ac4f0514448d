"""Masks of class numbers: read on the grid of the stored image, checked, and written there."""

from __future__ import annotations

import gzip
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from PIL import Image, UnidentifiedImageError

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.finetuning.segmentation.task import Task
from msdino_monai.images.cohort.folder import encode_mask
from msdino_monai.images.files import NIFTI, RASTER, kind_of
from msdino_monai.images.geometry import Geometry, spacing_in_mm, to_network_grid

Mask = npt.NDArray[np.uint8]


def read_mask(path: str | Path, image: str | Path, shape: Sequence[int], allowed: Sequence[int]) -> Mask:
    """Class numbers (H, W) on the stored grid of `image`, or an error that names the file and what is in it.

    A PNG holds them as grey values or palette numbers. A NIfTI lies as a NIfTI image does, and beside any other kind
    of image with columns first.
    """
    mask = _numbers(Path(path), Path(image))
    if mask.shape != tuple(shape):
        raise UserError(
            f"mask {path} has {_by(mask.shape)} pixels but {image} is stored with {_by(shape)}; draw it on that grid."
        )
    found = np.unique(mask)
    wrong = [value for value in found if value not in allowed]
    if wrong:
        raise UserError(
            f"mask {path} holds {_some(wrong)} but the classes are numbered {_some(allowed)}; "
            "mend the mask, or --classes and --task."
        )
    return mask.astype(np.uint8)


class LoadMaskd(MapTransform):
    """A mask's path to what the network learns, where it sees the image that was loaded before.

    Args:
        keys: the masks.
        image_key: their image, as `LoadRadiographd` left it.
        task: see `task_of`.
        img_size: height and width of the network's image.
    """

    def __init__(
        self, keys: KeysCollection, task: Task, img_size: int | Sequence[int], image_key: str = "image"
    ) -> None:
        super().__init__(keys)
        self.task, self.image_key = task, image_key
        self.img_size: tuple[int, int] = ensure_tuple_rep(img_size, 2)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        meta = loaded[self.image_key].meta
        geometry = Geometry.of(meta, self.img_size)
        for key in self.key_iterator(loaded):
            path = loaded[key]
            mask = read_mask(path, meta["filename_or_obj"], geometry.stored_shape, self.task.allowed())
            target = to_network_grid(self.task.encode(torch.from_numpy(mask)), geometry)
            loaded[key] = MetaTensor(target, meta={"filename_or_obj": str(path)})
        return loaded


def write_png(mask: Mask) -> bytes:
    """A palette PNG: the pixel's value is the class."""
    return encode_mask(np.ascontiguousarray(mask))


def write_nifti(mask: Mask, image: str | Path) -> bytes:
    """A gzipped NIfTI that lies on its image: on a NIfTI's own axes, else with columns first."""
    laid = mask.T
    if kind_of(image) == NIFTI:
        shape = _open_nifti(image).shape[:3]
        laid = mask.reshape(shape) if math.prod(shape) == mask.size else mask
    encoded = nibabel.Nifti1Image(np.ascontiguousarray(laid), affine_of(image)).to_bytes()
    return gzip.compress(encoded, mtime=0)


def affine_of(image: str | Path) -> npt.NDArray[np.float64]:
    """Where an image's pixels lie: a NIfTI's own, else as ITK places a flat picture, columns first."""
    if kind_of(image) == NIFTI:
        return np.asarray(_open_nifti(image).affine, dtype=np.float64)
    rows, columns = spacing_in_mm(image) or (1.0, 1.0)
    affine: npt.NDArray[np.float64] = np.diag([-columns, -rows, 1.0, 1.0])
    return affine


def volume_shape(image: str | Path) -> tuple[int, int, int]:
    """The first three axes of a NIfTI, 1 for those it lacks."""
    rows, columns, slices = (*_open_nifti(image).shape, 1, 1)[:3]
    return int(rows), int(columns), int(slices)


def _numbers(path: Path, image: Path) -> npt.NDArray[Any]:
    try:
        kind = kind_of(path)
    except RadiographError as error:
        raise UserError(f"mask {path} cannot be read ({error.reason}); give a PNG or a NIfTI.") from error
    if kind == NIFTI:
        return _nifti_numbers(path, image)
    if kind != RASTER:
        raise UserError(f"mask {path} is {kind}; give a PNG or a NIfTI of class numbers.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its image was read before
            with Image.open(path, formats=("PNG",)) as picture:
                mode, numbers = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise UserError(f"mask {path} cannot be read ({error}); save it as a PNG.") from error
    if numbers.ndim != 2:
        raise UserError(f"mask {path} is in colour ({mode}); save class numbers as a grey or palette PNG.")
    return numbers


def _nifti_numbers(path: Path, image: Path) -> npt.NDArray[Any]:
    try:
        numbers: npt.NDArray[Any] = np.asanyarray(_open_nifti(path).dataobj)
    except Exception as error:  # broken streams and headers raise anything
        raise UserError(f"mask {path} cannot be read ({error}); save it as a PNG or a NIfTI.") from error
    numbers = numbers.reshape([length for length in numbers.shape if length > 1] or [1, 1])
    return numbers if kind_of(image) == NIFTI or numbers.ndim != 2 else numbers.T


def _open_nifti(path: str | Path) -> Any:
    """By content: `.nii`, `.nii.gz` or any other name."""
    data = Path(path).read_bytes()
    data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    kind = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
    return kind.from_bytes(data)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(int(length)) for length in shape)


def _some(values: Sequence[Any], limit: int = 8) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:limit])
    return shown + (", ..." if len(values) > limit else "")
