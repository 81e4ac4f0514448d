"""Volumes and their masks as MONAI sees them: channel first, float32, with the affine of the file."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from msdino_monai.errors import RadiographError, UserError, one_line
from msdino_monai.images.files import DICOM, NIFTI, kind_of
from msdino_monai.images.in_memory import IN_MEMORY, array_of
from msdino_monai.images.series import MAX_VOXELS, Voxels, read_series

_ADVICE = "copy the file again from its source"


class VolumeError(RadiographError):
    """One volume that cannot be used; the message names it, the parts are those of a quarantine's row."""

    def __init__(self, path: str, step: str, reason: str, advice: str) -> None:
        UserError.__init__(self, f"volume {path}: {reason}; {advice}.")
        self.path, self.step, self.reason, self.advice = path, step, reason, advice

    def __reduce__(self) -> tuple[type[VolumeError], tuple[str, str, str, str]]:  # type: ignore[override]
        return type(self), (self.path, self.step, self.reason, self.advice)


def read_volume(path: str | Path) -> MetaTensor:
    """A NIfTI, a folder that holds one DICOM series, or an enhanced DICOM file as (1, X, Y, Z) with its affine.

    Values are those of the file (Hounsfield units for CT); the grid is the file's own, oblique or anisotropic as it
    may be. `Orientationd`, `Spacingd`, `Invertd` and `SaveImaged` do the rest.
    """
    try:
        voxels = _read(Path(path))
        _check(voxels)
    except VolumeError:
        raise
    except RadiographError as error:
        raise VolumeError(str(path), error.step, error.reason, error.advice) from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a header can be wrong in ways nobody has thought of
        raise VolumeError(str(path), "read", one_line(error), f"{_ADVICE}, or leave it out") from error
    return _as_tensor(voxels, path)


def volume_in_memory(image: Any) -> MetaTensor:
    """A volume (X, Y, Z) or (1, X, Y, Z) that a program has loaded, with the affine it brings.

    MONAI keeps affines in RAS. One whose meta says LPS is turned, but for MONAI Deploy's, which says so of one in RAS.
    """
    name = "in memory"
    try:
        if not isinstance(image, MetaTensor):
            raise RadiographError("geometry", "an array lies nowhere", "give a path, or a MetaTensor with an affine")
        values = array_of(image).astype(np.float32)
        values = values.reshape(_three_axes(values.shape[1:] if values.ndim > 3 and len(values) == 1 else values.shape))
        affine = np.asarray(torch.as_tensor(image.affine).cpu(), dtype=np.float64)
        if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS and "nifti_affine_transform" not in image.meta:
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        voxels = Voxels(np.ascontiguousarray(values), affine)
        _check(voxels)
    except RadiographError as error:
        raise VolumeError(name, error.step, error.reason, error.advice) from error
    volume = _as_tensor(voxels, name)
    volume.meta.update({"filename_or_obj": str(image.meta.get("filename_or_obj", "")), IN_MEMORY: True})
    return volume


@dataclass(frozen=True)
class Grid:
    """Where a volume's voxels lie."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, voxels: Voxels) -> Grid:
        return cls(voxels.values.shape, voxels.affine)


class LoadVolumed(MapTransform):
    """Paths of volumes to what `read_volume` returns; a volume that is loaded already keeps its place."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            image = loaded[key]
            loaded[key] = read_volume(image) if isinstance(image, (str, Path)) else volume_in_memory(image)
        return loaded


class LoadVolumeMaskd(MapTransform):
    """Paths of masks to class numbers (1, X, Y, Z) on the grid of their image, which `LoadVolumed` left there before.

    A mask that numbers the same voxels along other axes, as segmentation programs save it beside a DICOM series, is
    turned; one on another grid is refused.

    Args:
        keys: the masks.
        classes: their names, or how many there are, without the background: they are numbered from 1.
        image_key: their image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[str] | int,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.count = classes if isinstance(classes, int) else len(classes)
        if self.count < 1 or isinstance(classes, str):
            raise ValueError(f"classes must be a list of names or their number, got {classes!r}.")
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = read_volume_mask(loaded[key], loaded[self.image_key], self.count)
        return loaded


def read_volume_mask(path: str | Path, image: MetaTensor, classes: int) -> MetaTensor:
    """Class numbers from 0 to `classes` on the grid of `image` as it was read, or one line that says what is wrong."""
    grid = Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))
    return _as_tensor(_mask_on(grid, path, str(image.meta.get("source", "its image")), classes), path)


def check_volume_mask(path: str | Path, image: str | Path, classes: int) -> None:
    """Refuse what `read_volume_mask` would; of a NIfTI image only the header is read."""
    try:
        place = Path(image)
        grid = _nifti_grid(place) if not place.is_dir() and kind_of(place) == NIFTI else Grid.of(_read(place))
    except RadiographError as error:
        raise VolumeError(str(image), error.step, error.reason, error.advice) from error
    _mask_on(grid, path, str(image), classes)


def _mask_on(grid: Grid, path: str | Path, image: str, classes: int) -> Voxels:
    try:
        mask = _turned(_read(Path(path)), grid.affine)
    except RadiographError as error:
        raise UserError(f"mask {path} cannot be read ({error.reason}); give a NIfTI of class numbers.") from error
    _check_grid(mask, grid, path, image)
    # Sorting a hundred million voxels to find their values takes ten times as long as this look at them.
    values = mask.values
    if values.min() < 0 or values.max() > classes or (values != np.rint(values)).any():
        wrong = [value for value in np.unique(values).tolist() if value not in range(classes + 1)]
        some = ", ".join(f"{value:g}" for value in wrong[:8]) + (", ..." if len(wrong) > 8 else "")
        raise UserError(f"mask {path} holds {some} but the classes are 0 to {classes}; mend the mask or the classes.")
    return mask


def _read(path: Path) -> Voxels:
    if path.is_dir():
        return read_series(path)
    kind = kind_of(path)
    if kind == NIFTI:
        return _read_nifti(path)
    if kind == DICOM:
        return read_series(path)
    raise RadiographError("open", "a flat picture", "give a NIfTI, or a folder that holds one DICOM series")


def _read_nifti(path: Path) -> Voxels:
    """By content: `.nii`, `.nii.gz` or any other name; never more than the header announces."""
    with _opened(path) as (stream, image):
        values = np.asanyarray(image.dataobj, dtype=np.float32).reshape(_three_axes(image.shape))
        stream.read(1)  # at its end gzip compares the checksum
        return Voxels(values, np.asarray(image.affine, dtype=np.float64))


def _nifti_grid(path: Path) -> Grid:
    with _opened(path) as (_, image):
        return Grid(_three_axes(image.shape), np.asarray(image.affine, dtype=np.float64))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file's stream and the image whose header it begins with."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            kind = nibabel.Nifti2Image if stream.read(8)[4:] == b"n+2\0" else nibabel.Nifti1Image
            stream.seek(0)
            image = kind.from_stream(stream)
            _three_axes(image.shape)
            if image.get_data_dtype().fields or image.get_data_dtype().kind == "c":
                raise RadiographError("decode", f"values of type {image.get_data_dtype()}", "convert it to grey")
            yield stream, image
    except RadiographError:
        raise
    except Exception as error:  # broken streams and headers raise anything
        raise RadiographError("decode", one_line(error), _ADVICE) from error


def _three_axes(shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1."""
    if math.prod(shape) > MAX_VOXELS or min(shape, default=0) < 1:
        raise RadiographError("open", f"the header claims {_by(shape)} voxels", _ADVICE)
    if len(shape) > 3 and math.prod(shape[3:]) > 1:
        raise RadiographError("frames", f"{_by(shape)} voxels are several volumes", "save one volume a file")
    first = tuple(int(length) for length in (*shape[:3], 1, 1)[:3])
    return first[0], first[1], first[2]


def _check(voxels: Voxels) -> None:
    """Refuse what is no volume or lies nowhere."""
    if min(voxels.values.shape) < 2:
        raise RadiographError(
            "frames", f"{_by(voxels.values.shape)} voxels are a single slice", "give the whole volume or series"
        )
    if not _places(voxels.affine):
        raise RadiographError("geometry", "the header's affine places no volume", "convert it again from its source")
    # One sum is a quarter of the time of looking at each value; infinities and NaN survive it.
    if not math.isfinite(float(voxels.values.sum(dtype=np.float64))):
        raise RadiographError("values", "voxels that are not finite numbers", "send a volume without NaN or infinity")


def _places(affine: NDArray[np.float64]) -> bool:
    """Whether an affine spans a volume, with plausible millimetres between voxels."""
    if not np.isfinite(affine).all():
        return False
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    plausible = ((steps > 1e-3) & (steps < 1e3)).all()
    return bool(plausible and abs(np.linalg.det(affine[:3, :3])) > 1e-3 * math.prod(steps))


def _turned(mask: Voxels, affine: NDArray[np.float64]) -> Voxels:
    """The mask with its axes in the order and direction of another grid's; no voxel changes its place."""
    if not _places(mask.affine):
        raise RadiographError("geometry", "its affine places no volume", _ADVICE)
    here, there = (nibabel.io_orientation(each) for each in (mask.affine, affine))
    turn = nibabel.orientations.ornt_transform(here, there)
    values = nibabel.orientations.apply_orientation(mask.values, turn)
    moved = mask.affine @ nibabel.orientations.inv_ornt_aff(turn, mask.values.shape)
    return Voxels(np.ascontiguousarray(values), moved)


def _check_grid(mask: Voxels, grid: Grid, path: str | Path, image: str) -> None:
    if mask.values.shape != grid.shape:
        raise UserError(
            f"mask {path} has {_by(mask.values.shape)} voxels but {image} has {_by(grid.shape)}; draw it on that grid."
        )
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, length - 1) for length in grid.shape))])
    apart = float(np.linalg.norm(corners @ (mask.affine - grid.affine).T, axis=1).max())
    # Headers round; a tenth of a voxel is no shift.
    if not apart <= 0.1 * np.linalg.norm(grid.affine[:3, :3], axis=0).min():
        raise UserError(f"mask {path} lies up to {apart:.3g} mm beside {image}; save it with the image's geometry.")


def _as_tensor(voxels: Voxels, path: str | Path) -> MetaTensor:
    # A DICOM folder is often named by a UID. MONAI's savers would cut the name at its last dot, and two series of a
    # study would overwrite each other's results.
    name = f"{path}.dcm" if Path(path).is_dir() and "." in Path(path).name else str(path)
    meta = {
        "filename_or_obj": name,
        "source": str(path),
        MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(voxels.affine.copy()),
        MetaKeys.SPATIAL_SHAPE: torch.tensor(voxels.values.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
    }
    values = torch.from_numpy(voxels.values)[None]  # (X, Y, Z) -> (1, X, Y, Z)
    return MetaTensor(values.contiguous(), affine=torch.from_numpy(voxels.affine), meta=meta)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(int(length)) for length in shape)
