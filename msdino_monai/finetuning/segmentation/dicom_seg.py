"""Masks as DICOM Segmentation, on the pixels of the image they refer to; needs the extra `dicom`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from monai.utils import optional_import
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from msdino_monai import __version__
from msdino_monai.errors import RadiographError, UserError, one_line

highdicom, _ = optional_import("highdicom")

_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_RIGHT, _LEFT = Code("24028007", "SCT", "Right"), Code("7771000", "SCT", "Left")
_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Category, type and side of the classes that SNOMED has a code for; others get a code of ours.
_LUNG = Code("39607008", "SCT", "Lung")
_CODES: dict[str, tuple[Code, Code, Code | None]] = {
    "lungs": (_ANATOMY, _LUNG, None),
    "right_lung": (_ANATOMY, _LUNG, _RIGHT),
    "left_lung": (_ANATOMY, _LUNG, _LEFT),
    "effusion": (_ABNORMAL, Code("60046008", "SCT", "Pleural effusion"), None),
    "pneumothorax": (_ABNORMAL, Code("36118008", "SCT", "Pneumothorax"), None),
    "nodule": (_ABNORMAL, Code("27925004", "SCT", "Nodule"), None),
}


@dataclass(frozen=True)
class Producer:
    """Who made a mask."""

    model: str = "MS-DINO for MONAI"
    weights: str = "unknown"  # their sha256


def require_highdicom(output_format: str) -> None:
    """Refuse the format before anything runs where the package is missing."""
    if output_format == "dicom_seg" and find_spec("highdicom") is None:
        raise UserError("--output_format dicom_seg needs highdicom; run: pip install 'msdino-monai[dicom]'")


def encode_segmentation(
    image: str | Path, layers: npt.NDArray[np.bool_], classes: Sequence[str], producer: Producer
) -> bytes:
    """Layers (classes, H, W) on the stored pixels of a DICOM image, as a binary DICOM SEG that refers to it.

    The same image, layers and weights give the same identifiers, so that sending it twice makes no copy.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom and highdicom warn of headers that came with the image
        try:
            source = pydicom.dcmread(image, stop_before_pixels=True)
            uids = [source.SOPInstanceUID, producer.weights, ",".join(classes), layers.tobytes().hex()]
            segmentation = highdicom.seg.Segmentation(
                source_images=[source],
                pixel_array=np.moveaxis(layers, 0, -1)[None].astype(np.uint8),  # (K, H, W) -> (1, H, W, K)
                segmentation_type="BINARY",
                segment_descriptions=[
                    _describe(number, name, producer) for number, name in enumerate(classes, start=1)
                ],
                series_instance_uid=generate_uid(entropy_srcs=[source.SeriesInstanceUID, producer.weights]),
                series_number=1000,
                sop_instance_uid=generate_uid(entropy_srcs=uids),
                instance_number=1,
                manufacturer=producer.model,
                manufacturer_model_name=producer.model,
                software_versions=__version__,
                device_serial_number=producer.weights[:64],
                content_label="SEGMENTATION",
                series_description=f"{producer.model}: research only",
                omit_empty_frames=False,
            )
            _drop_half_measures(segmentation)
            buffer = io.BytesIO()
            segmentation.save_as(buffer)
        except Exception as error:  # an image's header may lack anything a DICOM SEG has to repeat
            reason = f"no DICOM SEG of this header ({one_line(error)})"
            raise RadiographError("write", reason, "use `output_format` auto") from error
    return buffer.getvalue()


def _drop_half_measures(segmentation: Any) -> None:
    """A radiograph has no slice thickness; highdicom then writes pixel measures that it refuses to read."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    measures = shared.get("PixelMeasuresSequence")
    if measures and "SliceThickness" not in measures[0]:
        del shared.PixelMeasuresSequence


def _describe(number: int, name: str, producer: Producer) -> Any:
    own = (_ABNORMAL, Code(f"class{number}", "99MSDINO", name[:64]), None)
    category, kind, side = _CODES.get(name, own)
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=producer.model, family=_INTELLIGENCE, version=__version__
        ),
    )
    if side is not None:
        concept = highdicom.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return described
