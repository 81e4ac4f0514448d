"""DICOM radiographs, decoded and windowed as the header asks."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from msdino_monai.errors import RadiographError, one_line
from msdino_monai.images.burned_in import row_extremes, shows_text
from msdino_monai.images.colour import luminance
from msdino_monai.images.display import hang
from msdino_monai.images.radiograph import MAX_PIXELS, Orientation, Radiograph, Rules, Window

try:  # pydicom 3
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space, get_decoder
except ImportError:  # pydicom 2.4
    from pydicom.pixel_data_handlers.util import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space

    get_decoder = None

# The reader asks for nothing that names a patient, unless it is told to.
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
_PATIENT = Tag("PatientID")

GREY = ("MONOCHROME1", "MONOCHROME2")

_LATERAL_VIEWS = {"LL", "RL", "LATERAL", "LAT", "LLD", "RLD"}
# SNOMED and SRT codes of the lateral projections in DICOM's context group 4010.
_LATERAL_CODES = {"R-10232", "R-10236", "399198007", "399173006"}


def read_dicom(path: str | Path, rules: Rules = Rules(), with_patient: bool = False) -> Radiograph:  # noqa: B008 -- frozen
    """Read one DICOM radiograph; whatever is wrong with it is a `RadiographError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of headers that a reader need not mind
        dataset = _open(path, with_patient)
        _check(dataset, rules)
        stored, photometric = _decode(dataset)
        if photometric not in GREY:
            stored = luminance(_to_rgb(stored, dataset, photometric))
        of_rows = row_extremes(stored)  # one look at millions of pixels serves both checks below
        flags = ("likely burned-in text",) if shows_text(stored, of_rows) else ()
        inverted = photometric == "MONOCHROME1"
        values, window = stored, None
        if photometric in GREY:
            values, rising, window = _as_shown(stored, of_rows, dataset)
            inverted ^= not rising
        return Radiograph(
            _air_beside(values, _padding(stored, dataset), inverted),
            inverted,
            _orientation(dataset),
            _spacing(dataset),
            flags,
            window,
            _patient(dataset),
        )


def _open(path: str | Path, with_patient: bool = False) -> Dataset:
    try:
        return pydicom.dcmread(path, specific_tags=[*_TAGS, _PATIENT] if with_patient else _TAGS)
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
        if (raw := _raw_greys(dataset)) is not None:
            return _in_range(raw, dataset), str(dataset.PhotometricInterpretation)
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


def _raw_greys(dataset: Dataset) -> NDArray[Any] | None:
    """One frame of uncompressed 16-bit greys, where it lies: pydicom would copy it, and shift its bits to and fro."""
    if dataset.file_meta.TransferSyntaxUID not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        return None
    layout = [dataset.get(keyword) for keyword in ("SamplesPerPixel", "BitsAllocated", "PixelRepresentation")]
    data, shape = dataset.get("PixelData"), (dataset.Rows, dataset.Columns)
    if dataset.get("PhotometricInterpretation") not in GREY or layout not in ([1, 16, 0], [1, 16, 1]):
        return None
    if data is None or len(data) != 2 * math.prod(shape) or not 0 < _whole(dataset.get("BitsStored"), default=0) <= 16:
        return None  # several frames, or something to complain about
    return np.frombuffer(data, dtype="<i2" if layout[-1] else "<u2").reshape(shape)


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


def _air_beside(values: NDArray[Any], padded: NDArray[np.bool_] | None, inverted: bool) -> NDArray[Any]:
    """Give pixels that pad the image to a rectangle the value of air."""
    if padded is None or not padded.any() or padded.all():
        return values
    image = values[~padded]
    return np.where(padded, image.max() if inverted else image.min(), values)


def _as_shown(
    stored: NDArray[Any], of_rows: tuple[NDArray[Any], NDArray[Any]], dataset: Dataset
) -> tuple[NDArray[Any], bool, Window | None]:
    """Values through the header's lookup tables, whether they rise with what is shown, and the window on them."""
    try:
        values, slope, intercept = _looked_up(stored, dataset)
        if dataset.get("VOILUTSequence"):
            return values, True, None
        low, high = of_rows if values is stored else row_extremes(values)
        return values, slope > 0, _window(low.min(), high.max(), slope, intercept, dataset)
    except Exception as error:  # lookup tables come broken in many ways
        raise RadiographError("window", one_line(error), "repair the header's window or lookup table") from error


def _looked_up(stored: NDArray[Any], dataset: Dataset) -> tuple[NDArray[Any], float, float]:
    """Values, and the rescale slope and intercept that are still to be applied to them."""
    slope, intercept = _number(dataset.get("RescaleSlope"), 1.0), _number(dataset.get("RescaleIntercept"), 0.0)
    if dataset.get("ModalityLUTSequence"):
        stored = apply_modality_lut(stored, dataset).astype(np.float32)
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise ValueError(f"rescale slope {slope} and intercept {intercept}")
    if dataset.get("ModalityLUTSequence") or slope == 0.0:
        slope, intercept = 1.0, 0.0
    if not dataset.get("VOILUTSequence"):
        return stored, slope, intercept
    indices = (stored.astype(np.float32) * slope + intercept).round().astype(np.int32)
    return np.asarray(apply_voi(indices, dataset), dtype=np.float32), 1.0, 0.0


def _window(low: Any, high: Any, slope: float, intercept: float, dataset: Dataset) -> Window | None:
    """The window on values from `low` to `high`, yet to be rescaled; none where it cuts nothing or hides everything."""
    center, width = _number(dataset.get("WindowCenter"), math.nan), _number(dataset.get("WindowWidth"), math.nan)
    if math.isnan(center) or not width > 0:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR_EXACT", "SIGMOID"):  # LINEAR, and what nobody knows
        center, width = center - 0.5, max(width - 1.0, 1e-6)
    window = Window((center - intercept) / slope, width / abs(slope), smooth=function == "SIGMOID")
    extremes = np.array([low, high], dtype=np.float32)
    shown = window(extremes)
    return None if (shown == extremes).all() or shown[0] == shown[1] else window


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


def _patient(dataset: Dataset) -> str:
    try:
        return str(dataset.get("PatientID") or "")
    except Exception:  # an odd name is no reason to refuse an image
        return ""


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
