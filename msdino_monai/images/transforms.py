"""The one transform that turns a file into what every network here sees."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray

from msdino_monai.errors import RadiographError, one_line
from msdino_monai.images.dicom import read_dicom
from msdino_monai.images.display import fit, pad, stretch
from msdino_monai.images.files import DICOM, RASTER, kind_of
from msdino_monai.images.in_memory import radiograph_in_memory
from msdino_monai.images.nifti import read_nifti
from msdino_monai.images.radiograph import RADIOGRAPH_MODALITIES, Radiograph, Rules
from msdino_monai.images.raster import read_raster


def read_radiograph(path: str | Path, rules: Rules = Rules(), with_patient: bool = False) -> Radiograph:  # noqa: B008 -- frozen
    """Read a DICOM, PNG, JPEG or NIfTI radiograph, known by its content; what cannot be used is a `RadiographError`."""
    kind = kind_of(path)
    try:
        if kind == DICOM:
            return read_dicom(path, rules, with_patient)
        return read_raster(path) if kind == RASTER else read_nifti(path, rules)
    except RadiographError:
        raise
    except Exception as error:  # a header can be wrong in ways nobody has thought of; one file never stops a run
        raise RadiographError(
            "read", one_line(error), "copy the file again from its source, or leave it out"
        ) from error


class LoadRadiograph(Transform):
    """A file to a (1, H, W) float image as a radiologist sees it: upright, air 0, dense 1, undistorted, padded.

    A program may give an image that it has loaded already; `radiograph_in_memory` says what is then taken for granted.

    Args:
        img_size: height and width of the result, or one number for a square.
        modalities: DICOM modalities that are used; `None` for all.
        allow_lateral: use images whose header says lateral (files without a header cannot say).
        allow_burned_in_annotation: use images whose header says annotations are burned into the pixels.
        allow_first_frame: use the first frame of a multi-frame file.
        allow_for_processing: use raw detector data, which looks unlike what radiologists see.
        with_patient: note a DICOM header's PatientID as the image's meta `patient`.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        modalities: Sequence[str] | None = RADIOGRAPH_MODALITIES,
        allow_lateral: bool = False,
        allow_burned_in_annotation: bool = False,
        allow_first_frame: bool = False,
        allow_for_processing: bool = False,
        with_patient: bool = False,
    ) -> None:
        self.img_size: tuple[int, int] = ensure_tuple_rep(img_size, 2)
        if min(self.img_size) < 1:
            raise ValueError(f"img_size must be positive, got {img_size}.")
        self.rules = Rules(
            tuple(modalities) if modalities is not None else None,
            allow_lateral,
            allow_burned_in_annotation,
            allow_first_frame,
            allow_for_processing,
        )
        self.with_patient = with_patient

    def __call__(self, image: str | Path | MetaTensor | NDArray[Any]) -> MetaTensor:
        if isinstance(image, (str, Path)):
            path = only_file(image)
            radiograph = read_radiograph(path, self.rules, self.with_patient)
            about: dict[str, Any] = {"filename_or_obj": str(path)}
        else:
            radiograph, about = radiograph_in_memory(image, self.rules)
        turn = radiograph.orientation
        size = self.img_size[::-1] if turn.transpose else self.img_size
        stored = np.asarray(radiograph.stored)
        pixels = fit(stored, size, radiograph.aspect, radiograph.window)
        if not np.isfinite(pixels.numpy()).all():  # a fifth of torch's time
            raise RadiographError(
                "contrast", "pixels that are not finite numbers", "send an image without NaN or infinity"
            )
        pixels = stretch(-pixels if radiograph.inverted else pixels)
        pixels = pad(turn.apply(pixels), self.img_size)
        meta = {
            **about,
            "stored_shape": stored.shape,
            "aspect": radiograph.aspect,
            "orientation": (turn.transpose, turn.flip_rows, turn.flip_columns),
            "flags": ", ".join(radiograph.flags),
        }
        if self.with_patient:
            meta["patient"] = radiograph.patient
        return MetaTensor(pixels[None].contiguous(), meta=meta)  # (H, W) -> (1, H, W)


def only_file(path: str | Path) -> Path:
    """A DICOM series may come as its folder; a radiograph's holds one file."""
    if not Path(path).is_dir():
        return Path(path)
    files = [file for file in Path(path).rglob("*") if file.is_file() and not file.name.startswith((".", "DICOMDIR"))]
    if len(files) != 1:
        raise RadiographError("open", f"a folder of {len(files)} files", "name one of them")
    return files[0]


class LoadRadiographd(MapTransform):
    """Dictionary version of `LoadRadiograph`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **settings: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadRadiograph(**settings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = self.load(loaded[key])
        return loaded
