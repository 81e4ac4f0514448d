"""One DICOM series as a volume: its slices sorted along their normal, rescaled, placed in the patient."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from msdino_monai.errors import RadiographError, one_line
from msdino_monai.images.dicom import GREY, _as_stored, _in_range, _lacks_codec, _whole
from msdino_monai.images.files import DICOM, find_images, kind_of

try:  # pydicom 3
    from pydicom.pixels import apply_modality_lut
except ImportError:  # pydicom 2.4
    from pydicom.pixel_data_handlers.util import apply_modality_lut

# A header that claims more is broken or hostile.
MAX_VOXELS = 2**30

_KEYWORDS = str.split("""
SOPClassUID SOPInstanceUID SeriesInstanceUID Modality SeriesDescription ImageType
ImageOrientationPatient ImagePositionPatient PixelSpacing
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
HighBit PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable
ExtendedOffsetTableLengths PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept ModalityLUTSequence
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_WHOLE_SERIES = "export the whole series again"

# What two slices of one series may differ by in each number of ImageOrientationPatient.
_SAME_DIRECTION = 1e-3


@dataclass(frozen=True)
class Voxels:
    """Values (X, Y, Z) and the affine that takes their indices to millimetres in the patient (RAS+)."""

    values: NDArray[np.float32]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """Where one frame of one file lies in the patient (LPS+), and how its stored values become quantities."""

    file: Path
    frame: int | None
    position: NDArray[np.float64]
    rows_lead: NDArray[np.float64]  # along a row: the column index grows
    columns_lead: NDArray[np.float64]
    spacing: tuple[float, float]  # between rows, between columns
    shape: tuple[int, int]
    slope: float
    intercept: float


def read_series(path: Path) -> Voxels:
    """The series in a folder (and its subfolders), or of one multi-frame file; refuses what is not one whole volume."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of headers that a reader need not mind
        files = [path / name for name in find_images(path)] if path.is_dir() else [path]
        headers = [_open(file, path) for file in files]
        _check_one_series(headers)
        slices = [each for file, header in zip(files, headers, strict=True) for each in _slices(file, header)]
        slices, step = _sorted(slices)
        return Voxels(_values(slices), _affine(slices, step))


def _open(file: Path, folder: Path) -> Dataset:
    """One header, without its pixels."""
    name = file.relative_to(folder).as_posix() if file != folder else file.name
    try:
        if kind_of(file) != DICOM:
            raise RadiographError("open", "not DICOM", "")
        header = pydicom.dcmread(file, specific_tags=list(_KEYWORDS), stop_before_pixels=True)
    except RadiographError as error:
        raise RadiographError("open", f"{name} is not DICOM ({error.reason})", "take it out of the folder") from error
    except Exception as error:  # a broken header can raise anything
        raise RadiographError("open", f"{name}: {one_line(error)}", _WHOLE_SERIES) from error
    if str(header.get("PhotometricInterpretation") or "") not in GREY:
        what = header.get("PhotometricInterpretation") or header.get("Modality") or "nothing"
        raise RadiographError("open", f"{name} holds no grey image but {what}", "take it out of the folder")
    return header


def _check_one_series(headers: Sequence[Dataset]) -> None:
    series = Counter(str(header.get("SeriesInstanceUID") or "") for header in headers)
    if len(series) > 1:
        first = {str(header.get("SeriesInstanceUID") or ""): header for header in headers}
        kinds = [f"{_described(first[uid])} with {count} files" for uid, count in series.most_common(4)]
        raise RadiographError("series", f"{len(series)} series ({', '.join(kinds)})", "give a folder for each")
    instances = Counter(str(header.get("SOPInstanceUID") or "") for header in headers)
    again = sum(count - 1 for uid, count in instances.items() if uid)
    if again:
        raise RadiographError("series", f"{again} images are there twice", _WHOLE_SERIES)


def _described(header: Dataset) -> str:
    return f"{header.get('Modality') or 'unknown'} {str(header.get('SeriesDescription') or '')[:32]!r}"


def _slices(file: Path, header: Dataset) -> list[Slice]:
    frames = _whole(header.get("NumberOfFrames"), default=1)
    if frames == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        return [_slice(file, None, (header,))]
    every = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(every) != frames:
        raise RadiographError("geometry", f"{frames} frames without a place in the patient", _WHOLE_SERIES)
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [_slice(file, index, (own, *shared, header)) for index, own in enumerate(every)]


def _slice(file: Path, frame: int | None, sources: Sequence[Dataset]) -> Slice:
    """From a plain header, or from a frame's own groups before those all frames share."""
    direction = _numbers("PlaneOrientationSequence", "ImageOrientationPatient", sources, 6)
    position = _numbers("PlanePositionSequence", "ImagePositionPatient", sources, 3)
    spacing = _numbers("PixelMeasuresSequence", "PixelSpacing", sources, 2)
    if direction is None or position is None or spacing is None:
        raise RadiographError("geometry", f"{file.name} does not say where it lies in the patient", _WHOLE_SERIES)
    along, down = direction[:3], direction[3:]
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(along @ down)) > 0.01 or not (spacing > 0).all():
        raise RadiographError("geometry", f"{file.name} has impossible directions or spacings", _WHOLE_SERIES)
    slope = _numbers("PixelValueTransformationSequence", "RescaleSlope", sources, 1)
    intercept = _numbers("PixelValueTransformationSequence", "RescaleIntercept", sources, 1)
    if slope is not None and slope[0] == 0:
        raise RadiographError("values", f"{file.name} has the rescale slope 0", _WHOLE_SERIES)
    return Slice(
        file,
        frame,
        position,
        along / lengths[0],
        down / lengths[1],
        (float(spacing[0]), float(spacing[1])),
        (int(sources[-1].get("Rows") or 0), int(sources[-1].get("Columns") or 0)),
        1.0 if slope is None else float(slope[0]),
        0.0 if intercept is None else float(intercept[0]),
    )


def _numbers(group: str, keyword: str, sources: Sequence[Dataset], count: int) -> NDArray[np.float64] | None:
    for source in sources:
        for place in (*(source.get(group) or [])[:1], source):
            value = place.get(keyword)
            if value is None:
                continue
            try:
                numbers = np.atleast_1d(np.array(value, dtype=np.float64))
            except (TypeError, ValueError):
                return None
            return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None
    return None


def _sorted(slices: list[Slice]) -> tuple[list[Slice], NDArray[np.float64]]:
    """The slices along their normal, and the step from each to the next, the same for all."""
    first = slices[0]
    for other in slices:
        turned = max(
            np.abs(other.rows_lead - first.rows_lead).max(), np.abs(other.columns_lead - first.columns_lead).max()
        )
        if turned > _SAME_DIRECTION:
            raise RadiographError("geometry", "slices of several orientations", "give a folder for each of them")
        if other.shape != first.shape or not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            raise RadiographError("geometry", "slices of several sizes or pixel spacings", _WHOLE_SERIES)
    if not 0 < math.prod(first.shape) * len(slices) <= MAX_VOXELS:
        claim = f"the headers claim {len(slices)} slices of {first.shape[0]} x {first.shape[1]} pixels"
        raise RadiographError("open", claim, _WHOLE_SERIES)
    if len(slices) < 2:
        raise RadiographError("frames", "a single slice", "give the folder that holds the whole series")
    normal = np.cross(first.rows_lead, first.columns_lead)
    ordered = sorted(slices, key=lambda each: float(each.position @ normal))
    heights = np.array([each.position @ normal for each in ordered])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if (gaps < 0.01 * max(usual, 0.01)).any():
        twice = int((gaps < 0.01 * max(usual, 0.01)).sum())
        raise RadiographError("series", f"{twice} places hold two slices", "give one volume (one phase, one echo)")
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide):
        lost = round(float((gaps[wide] / usual - 1).sum()))
        start, stop = heights[wide[0]], heights[wide[0] + 1]
        raise RadiographError(
            "series", f"{max(lost, 1)} slices are missing, such as between {start:g} and {stop:g} mm", _WHOLE_SERIES
        )
    positions = np.array([each.position for each in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    even = positions[0] + np.arange(len(ordered))[:, None] * step
    apart = float(np.linalg.norm(positions - even, axis=1).max())
    if apart > max(0.1 * usual, 0.05):  # positions are rounded; a tilted gantry only shears the grid
        raise RadiographError(
            "geometry", f"slices lie up to {apart:.2g} mm beside an even grid", "resample it with equal steps"
        )
    return ordered, step


def _affine(slices: Sequence[Slice], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index (column, row, slice) to millimetres; DICOM's axes lead left and back, NIfTI's right and to the front."""
    first = slices[0]
    between_rows, between_columns = first.spacing
    affine: NDArray[np.float64] = np.eye(4)
    affine[:3, 0] = first.rows_lead * between_columns
    affine[:3, 1] = first.columns_lead * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _values(slices: Sequence[Slice]) -> NDArray[np.float32]:
    """All pixels (column, row, slice) in the header's quantity; what pads a round field gets the lowest real value."""
    rows, columns = slices[0].shape
    values = np.empty((columns, rows, len(slices)), dtype=np.float32)
    opened: tuple[Path | None, Any, Any] = (None, None, None)
    for index, each in enumerate(slices):
        if opened[0] != each.file:
            dataset = pydicom.dcmread(each.file, specific_tags=list(_KEYWORDS))
            opened = (each.file, dataset, _decode(dataset, each.file.name))
        _, dataset, frames = opened
        stored = frames if each.frame is None else frames[each.frame]
        if stored.shape != (rows, columns):
            raise RadiographError("decode", f"{each.file.name} decodes to {stored.shape}", _WHOLE_SERIES)
        values[..., index] = _quantity(stored, each, dataset).T
    padded = np.isnan(values)
    if padded.any() and not padded.all():
        values[padded] = np.nanmin(values)
    return values


def _decode(dataset: Dataset, name: str) -> NDArray[Any]:
    if not any(keyword in dataset for keyword in _PIXELS):
        raise RadiographError("open", f"{name} holds no pixels", "take it out of the folder")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        pixels = _in_range(dataset.pixel_array, dataset)
    except Exception as error:  # decoders raise anything on a broken stream
        if syntax is not None and _lacks_codec(syntax):
            advice = "run: pip install 'msdino-monai[dicom-codecs]'"
            raise RadiographError("decode", f"no codec for {syntax.name}", advice) from error
        raise RadiographError("decode", f"{name}: {one_line(error)}", _WHOLE_SERIES) from error
    frames = _whole(dataset.get("NumberOfFrames"), default=1)
    # A multi-frame file of one frame decodes to a flat picture.
    return pixels[None] if "PerFrameFunctionalGroupsSequence" in dataset and frames == 1 else pixels


def _quantity(stored: NDArray[Any], place: Slice, dataset: Dataset) -> NDArray[np.float32]:
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise RadiographError("values", f"{place.file.name} has pixels that are not finite numbers", _WHOLE_SERIES)
    if dataset.get("ModalityLUTSequence"):
        quantity: NDArray[np.float32] = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    else:
        quantity = stored.astype(np.float32) * np.float32(place.slope) + np.float32(place.intercept)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and stored.dtype.kind in "ui":
        value = _as_stored(int(padding), stored.dtype)
        limit = _as_stored(_whole(dataset.get("PixelPaddingRangeLimit"), default=value), stored.dtype)
        quantity[(stored >= min(value, limit)) & (stored <= max(value, limit))] = math.nan
    return quantity
