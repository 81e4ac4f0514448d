"""DICOM radiographs, decoded and windowed as the header asks."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from msdino_monai.errors import RadiographError, one_line
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.colour import luminance
from msdino_monai.images.display import WINDOW_FUNCTIONS, apply_window, hang
from msdino_monai.images.radiograph import MAX_PIXELS, Orientation, Radiograph, Rules

try:  # pydicom 3
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space, get_decoder
except ImportError:  # pydicom 2.4
    from pydicom.pixel_data_handlers.util import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space

    get_decoder = None

# The reader asks for nothing that names a patient.
_KEYWORDS = str.split("""
SOPClassUID Modality PresentationIntentType ViewPosition ViewCodeSequence PatientOrientation BurnedInAnnotation
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
HighBit PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable
ExtendedOffsetTableLengths PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing PixelAspectRatio
PixelPaddingValue PixelPaddingRangeLimit
RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence
RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData
""")

_TAGS = [Tag(keyword) for keyword in _KEYWORDS]  # pydicom would look keywords up anew for every file

GREY = ("MONOCHROME1", "MONOCHROME2")

_LATERAL_VIEWS = {"LL", "RL", "LATERAL", "LAT", "LLD", "RLD"}
# SNOMED and SRT codes of the lateral projections in DICOM's context group 4010.
_LATERAL_CODES = {"R-10232", "R-10236", "399198007", "399173006"}


def read_dicom(path: str | Path, rules: Rules = Rules()) -> Radiograph:  # noqa: B008 -- frozen
    """Read one DICOM radiograph; whatever is wrong with it is a `RadiographError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of headers that a reader need not mind
        dataset = _open(path)
        _check(dataset, rules)
        stored, photometric = _decode(dataset)
        if photometric not in GREY:
            stored = luminance(_to_rgb(stored, dataset, photometric))
        flags = ("likely burned-in text",) if shows_text(stored) else ()
        inverted = photometric == "MONOCHROME1"
        shown = _as_shown(stored, dataset) if photometric in GREY else torch.from_numpy(stored)
        shown = _air_beside(shown, _padding(stored, dataset), inverted)
        return Radiograph(shown, inverted, _orientation(dataset), _spacing(dataset), flags)


def _open(path: str | Path) -> Dataset:
    try:
        return pydicom.dcmread(path, specific_tags=_TAGS)
    except Exception as error:  # a broken header can raise anything
        raise RadiographError("open", one_line(error), "copy the file again from its source") from error


def _check(dataset: Dataset, rules: Rules) -> None:
    """Refuse what is not one usable radiograph, before its pixels are decoded."""
    modality = str(dataset.get("Modality") or "")
    if rules.modalities is not None and modality not in rules.modalities:
        raise RadiographError("modality", f"{modality} is not a radiograph", "leave it out, or add it to `modalities`")
    if dataset.get("PresentationIntentType") == "FOR PROCESSING" and not rules.allow_for_processing:
        raise RadiographError(
            "modality",
            "raw detector data (FOR PROCESSING)",
            "send the FOR PRESENTATION image, or `allow_for_processing`",
        )
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise RadiographError("open", "no pixel data", "leave it out")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not 0 < rows * columns <= MAX_PIXELS:
        raise RadiographError("open", f"the header claims {rows} x {columns} pixels", "copy it again from its source")
    if _is_lateral(dataset) and not rules.allow_lateral:
        raise RadiographError("view", "the header says lateral", "leave it out, or set `allow_lateral`")
    if dataset.get("BurnedInAnnotation") == "YES" and not rules.allow_burned_in_annotation:
        raise RadiographError(
            "burned-in text",
            "the header says annotations are burned in",
            "send a clean image, or `allow_burned_in_annotation`",
        )
    stored, high = _whole(dataset.get("BitsStored"), default=0), _whole(dataset.get("HighBit"), default=0)
    if high != stored - 1:
        raise RadiographError(
            "decode", f"BitsStored {stored} with HighBit {high}", "convert it with dcmconv or gdcmconv"
        )
    frames = _whole(dataset.get("NumberOfFrames"), default=1)
    if frames != 1 and not rules.allow_first_frame:
        raise RadiographError(
            "frames", f"{frames} frames", "export one frame, or set `allow_first_frame` to use the first"
        )


def _is_lateral(dataset: Dataset) -> bool:
    views = dataset.get("ViewCodeSequence") or []
    codes = {str(view.get("CodeValue", "")) for view in views}
    return str(dataset.get("ViewPosition") or "").upper() in _LATERAL_VIEWS or bool(codes & _LATERAL_CODES)


def _decode(dataset: Dataset) -> tuple[NDArray[Any], str]:
    """The first frame's stored values (H, W) or (H, W, 3), and their photometric interpretation."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise RadiographError("open", "the header names no transfer syntax", "convert it with dcmconv, or leave it out")
    try:
        if get_decoder is not None:
            pixels, meta = get_decoder(syntax).as_array(dataset, index=0)
            return pixels, str(meta["photometric_interpretation"])
        pixels = dataset.pixel_array
        if _whole(dataset.get("NumberOfFrames"), default=1) > 1:
            pixels = pixels[0]
        return _in_range(pixels, dataset), str(dataset.PhotometricInterpretation)
    except Exception as error:  # decoders raise anything on a broken stream
        if _lacks_codec(syntax):
            raise RadiographError(
                "decode", f"no codec for {syntax.name}", "run: pip install 'msdino-monai[dicom-codecs]'"
            ) from error
        raise RadiographError("decode", one_line(error), "copy the file again from its source") from error


def _lacks_codec(syntax: pydicom.uid.UID) -> bool:
    if not syntax.is_transfer_syntax or not syntax.is_compressed or syntax.is_deflated:
        return False
    if get_decoder is None:
        handlers = pydicom.config.pixel_data_handlers
        return not any(h.is_available() and h.supports_transfer_syntax(syntax) for h in handlers)
    try:
        return not get_decoder(syntax).is_available
    except NotImplementedError:  # video and other syntaxes that no codec here reads
        return False


def _in_range(pixels: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Drop what old scanners keep in the bits beyond BitsStored, such as overlays; pydicom 3 does it itself."""
    if pixels.dtype.kind not in "ui":
        return pixels
    spare = pixels.dtype.itemsize * 8 - int(dataset.get("BitsStored") or pixels.dtype.itemsize * 8)
    if spare <= 0:
        return pixels
    limit = 1 << (pixels.dtype.itemsize * 8 - spare - (pixels.dtype.kind == "i"))
    if pixels.max() < limit and (pixels.dtype.kind == "u" or pixels.min() >= -limit):
        return pixels
    return np.asarray(
        np.right_shift(np.left_shift(pixels, spare), spare)
    )  # arithmetic for signed values: keeps the sign


def _to_rgb(stored: NDArray[Any], dataset: Dataset, photometric: str) -> NDArray[Any]:
    try:
        if photometric == "PALETTE COLOR":
            return np.asarray(apply_color_lut(stored, dataset))
        if photometric in ("YBR_FULL", "YBR_FULL_422"):
            return np.asarray(convert_color_space(stored, photometric, "RGB"))
    except Exception as error:  # palettes come broken in many ways
        raise RadiographError("colour", one_line(error), "convert it to grey, or leave it out") from error
    if stored.ndim != 3:
        raise RadiographError(
            "colour", f"{photometric} with {stored.ndim} dimensions", "convert it to grey, or leave it out"
        )
    return stored


def _as_shown(stored: NDArray[Any], dataset: Dataset) -> torch.Tensor:
    """Rescale and window, as the header asks."""
    try:
        return _windowed(stored, dataset)
    except Exception as error:  # lookup tables come broken in many ways
        raise RadiographError("window", one_line(error), "repair the header's window or lookup table") from error


def _air_beside(shown: torch.Tensor, padded: NDArray[np.bool_] | None, inverted: bool) -> torch.Tensor:
    """Give pixels that pad the image to a rectangle the value of air."""
    if padded is None or not padded.any() or padded.all():
        return shown
    image = shown[torch.from_numpy(~padded)]
    shown[torch.from_numpy(padded)] = image.max() if inverted else image.min()
    return shown


def _windowed(stored: NDArray[Any], dataset: Dataset) -> torch.Tensor:
    shown = _rescaled(stored, dataset)
    if dataset.get("VOILUTSequence"):
        indices = shown.round().to(torch.int32).numpy()  # the table is indexed by rescaled values
        return torch.from_numpy(np.asarray(apply_voi(indices, dataset), dtype=np.float32))
    center, width = _number(dataset.get("WindowCenter"), math.nan), _number(dataset.get("WindowWidth"), math.nan)
    if math.isnan(center) or not width > 0:
        return shown
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    function = function if function in WINDOW_FUNCTIONS else "LINEAR"
    if dataset.get("ModalityLUTSequence"):  # need not be monotonic
        extremes = torch.stack(shown.aminmax())
    else:
        extremes = _rescaled(np.stack([stored.min(), stored.max()]), dataset)  # twice as fast on the stored integers
    after = apply_window(extremes.clone(), center, width, function)
    cuts_nothing = torch.equal(after, extremes)
    hides_everything = bool(after[0] == after[1])
    return shown if cuts_nothing or hides_everything else apply_window(shown, center, width, function)


def _rescaled(stored: NDArray[Any], dataset: Dataset) -> torch.Tensor:
    if dataset.get("ModalityLUTSequence"):
        return torch.from_numpy(apply_modality_lut(stored, dataset).astype(np.float32))
    values = torch.from_numpy(stored.astype(np.float32))
    slope, intercept = _number(dataset.get("RescaleSlope"), 1.0), _number(dataset.get("RescaleIntercept"), 0.0)
    if slope == 0.0 or (slope, intercept) == (1.0, 0.0):
        return values
    return values.mul_(slope).add_(intercept)


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    if dataset.get("PixelPaddingValue") is None or stored.dtype.kind not in "ui":
        return None
    value = _as_stored(int(dataset.PixelPaddingValue), stored.dtype)
    limit = _as_stored(_whole(dataset.get("PixelPaddingRangeLimit"), default=value), stored.dtype)
    return np.asarray((stored >= min(value, limit)) & (stored <= max(value, limit)))


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """A padding value in the pixels' own type: some writers put the unsigned twin of a signed value."""
    bits = dtype.itemsize * 8
    value %= 1 << bits
    return value - (1 << bits) if dtype.kind == "i" and value >= 1 << (bits - 1) else value


def _orientation(dataset: Dataset) -> Orientation:
    directions = dataset.get("PatientOrientation")
    if not isinstance(directions, MultiValue) or len(directions) != 2 or not all(directions):
        return Orientation()
    return hang(str(directions[0]), str(directions[1]))


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        values = dataset.get(keyword)
        if isinstance(values, MultiValue) and len(values) == 2:
            rows, columns = _number(values[0], 0.0), _number(values[1], 0.0)
            if rows > 0 and columns > 0:  # some scanners write zeros
                return rows, columns
    return None


def _number(value: Any, default: float) -> float:
    first = value[0] if isinstance(value, MultiValue) and len(value) else value
    try:
        return float(first)
    except (TypeError, ValueError):
        return default


def _whole(value: Any, default: int) -> int:
    return int(_number(value, default))
