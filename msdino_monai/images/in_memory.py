"""Radiographs that a program has loaded already: an array, or a MetaTensor with what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from msdino_monai.errors import RadiographError
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.colour import luminance
from msdino_monai.images.display import hang
from msdino_monai.images.radiograph import MAX_PIXELS, Orientation, Radiograph, Rules, Window

# In an image's meta: it has no file. Savers leave it alone, whoever brought it takes the result.
IN_MEMORY = "in_memory"
# In its meta as well: its first axis runs along the picture's rows, as MONAI's and ITK's arrays do.
COLUMNS_FIRST = "columns_first"
# The same fact under the names that DICOM and MONAI Deploy, for some ITK give it.
_PHOTOMETRIC = ("PhotometricInterpretation", "photometric_interpretation")
_TURNED = "0028|0004"  # ITK turns MONOCHROME1 over, and keeps the word; a window would be of the values before
_MODALITY = ("Modality", "modality", "0008|0060")
_CENTER, _WIDTH = ("WindowCenter", "0028|1050"), ("WindowWidth", "0028|1051")
_DICOM_LETTERS = {"S": "H", "I": "F"}
# What MONAI's PydicomReader makes up where the header says nothing, as radiographs' do.
_MADE_UP = np.eye(4)[[1, 0, 2, 3]]


def radiograph_in_memory(image: Any, rules: Rules = Rules()) -> tuple[Radiograph, dict[str, Any]]:  # noqa: B008 -- frozen
    """The radiograph, and what its meta keeps.

    Without metadata a picture is (H, W), (1, H, W) or colours (H, W, 3), upright, with dark air. A volume of one
    slice (W, H, 1), and whatever has an `original_affine` in its meta, has columns first and hangs by its affine.
    """
    values, meta = array_of(image), dict(image.meta) if isinstance(image, MetaTensor) else {}
    if not 0 < values.size <= 4 * MAX_PIXELS:
        raise RadiographError("open", f"shape {values.shape}", "give one two-dimensional image")
    modality = str(_first(meta, _MODALITY, ""))
    if modality and rules.modalities is not None and modality not in rules.modalities:
        raise RadiographError("modality", f"{modality} is not a radiograph", "leave it out, or add it to `modalities`")
    known = MetaKeys.ORIGINAL_AFFINE in meta
    stored, axes, columns_first = _picture(values, known, meta)
    orientation, spacing = Orientation(transpose=columns_first), _noted_spacing(meta, columns_first)
    if known and columns_first:
        affine = affine_of(image)
        if not np.array_equal(affine, _MADE_UP):
            orientation, spacing = _hung(affine, axes), _spacing_of(affine, axes)
    radiograph = Radiograph(
        np.ascontiguousarray(stored),
        _is_monochrome1(_first(meta, _PHOTOMETRIC, "")),
        orientation,
        spacing,
        ("likely burned-in text",) if shows_text(stored) else (),
        None if _is_monochrome1(meta.get(_TURNED)) else _window(stored, meta),
    )
    kept = {name: value for name, value in meta.items() if name != MetaKeys.AFFINE}
    return radiograph, {**kept, IN_MEMORY: True, COLUMNS_FIRST: columns_first}


def array_of(image: Any) -> NDArray[Any]:
    """The real numbers of an array, a tensor or a MetaTensor."""
    if isinstance(image, torch.Tensor):
        plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach().cpu()
        try:
            image = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()  # a type that numpy lacks
        except (TypeError, RuntimeError):
            reason = f"a tensor of {plain.dtype}, {plain.layout}"
            raise RadiographError("open", reason, "convert it to a dense one of float32") from None
    if not isinstance(image, np.ndarray):
        raise RadiographError("open", f"a {type(image).__name__}", "give a path, an array or a MetaTensor")
    if image.dtype.kind not in "biuf":
        raise RadiographError("decode", f"values of type {image.dtype}", "convert it to grey")
    return image


def affine_of(image: MetaTensor) -> NDArray[np.float64]:
    """In RAS. Deploy says LPS of an affine in RAS; it is known by its `nifti_affine_transform`."""
    affine = np.asarray(torch.as_tensor(image.affine).cpu(), dtype=np.float64)
    if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS and "nifti_affine_transform" not in image.meta:
        affine = np.diag([-1.0, -1.0, *[1.0] * (len(affine) - 2)]) @ affine
    return affine


def _is_monochrome1(photometric: Any) -> bool:
    return str(photometric).strip() == "MONOCHROME1"


def _picture(values: NDArray[Any], known: bool, meta: Mapping[str, Any]) -> tuple[NDArray[Any], list[int], bool]:
    """Two axes of values, which of the affine's axes they are, and whether columns come first."""
    is_flat = np.size(meta.get(MetaKeys.SPATIAL_SHAPE, ())) == 2  # the file; a third axis is a channel
    is_channel = _number(meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)) == 0 or (is_flat and len(values) == 1)
    has_channel = values.ndim == 4 or (values.ndim == 3 and (not known or is_channel))
    if has_channel and len(values) == 1:
        values = values[0]
    elif not known and values.ndim == 3 and values.shape[-1] == 3:
        return luminance(values), [0, 1], _is_from_pillow(values, meta)
    axes = [axis for axis, length in enumerate(values.shape) if length > 1]
    if len(axes) != 2:
        raise RadiographError("frames", f"shape {values.shape} is not one image", "give one two-dimensional image")
    columns_first = known or (values.ndim == 3 and axes == [0, 1]) or _is_from_pillow(values, meta)
    return values.squeeze(), axes, columns_first


def _is_from_pillow(values: NDArray[Any], meta: Mapping[str, Any]) -> bool:
    """Whether MONAI's PILReader read it: columns first, and no affine that says so."""
    return "width" in meta and values.shape[:2] == (meta["width"], meta.get("height"))


def _hung(affine: NDArray[np.float64], axes: Sequence[int]) -> Orientation:
    """By the letters of the affine, in RAS as MONAI keeps it; undone is what places nothing."""
    codes = nibabel.aff2axcodes(affine) if np.isfinite(affine).all() else (None, None, None)
    columns, rows = (_DICOM_LETTERS.get(str(codes[axis]), codes[axis]) or "" for axis in axes)
    return hang(rows, columns)


def _spacing_of(affine: NDArray[np.float64], axes: Sequence[int]) -> tuple[float, float] | None:
    first, second = (float(np.linalg.norm(affine[:3, axis])) for axis in axes)
    return (first, second) if first > 0 and second > 0 else None


def _noted_spacing(meta: Mapping[str, Any], columns_first: bool) -> tuple[float, float] | None:
    """As MONAI Deploy notes it; along the first and the second axis."""
    rows, columns = _number(meta.get("row_pixel_spacing")), _number(meta.get("col_pixel_spacing"))
    if not (rows > 0 and columns > 0):
        return None
    return (columns, rows) if columns_first else (rows, columns)


def _window(stored: NDArray[Any], meta: Mapping[str, Any]) -> Window | None:
    """The window of DICOM's function LINEAR on rescaled values; none where it would hide everything."""
    center, width = _number(_first(meta, _CENTER, None)), _number(_first(meta, _WIDTH, None))
    if math.isnan(center) or not width > 0:
        return None
    window = Window(center - 0.5, max(width - 1.0, 1e-6))
    low, high = window(np.array([stored.min(), stored.max()], dtype=np.float32))
    return window if low < high else None


def _first(meta: Mapping[str, Any], names: Sequence[str], default: Any) -> Any:
    return next((meta[name] for name in names if meta.get(name) is not None), default)


def _number(value: Any) -> float:
    """A number, or the first of several; NaN where there is none."""
    try:
        return float(np.asarray(value, dtype=np.float64).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return math.nan
