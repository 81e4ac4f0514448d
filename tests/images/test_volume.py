"""NIfTI volumes and masks: read as they lie, written back where they lay, refused in one line."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Lambdad, Orientationd, SaveImaged, Spacingd
from PIL import Image

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.volume import LoadVolumed, LoadVolumeMaskd, VolumeError, check_volume_mask, read_volume

SHAPE = (14, 12, 7)


def oblique(spacing: tuple[float, float, float] = (0.8, 0.9, 4.0), degrees: float = 12.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = (30.0, 40.0, -700.0)
    return affine


def values(dtype: Any = np.int16) -> np.ndarray:
    x, y, z = np.indices(SHAPE)
    return (100 * x + 10 * y + z - 300).astype(dtype)


def nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **scaling: float) -> Path:
    image = nibabel.Nifti1Image(data, oblique() if affine is None else affine)
    if scaling:
        image.header.set_slope_inter(**scaling)
    nibabel.save(image, path)
    return path


def mask_values() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[3:9, 4:8, 2:5] = 1
    mask[5:7, 5:6, 3:4] = 2
    return mask


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img_without_a_suffix"])
def test_volume_keeps_values_and_affine(tmp_path: Path, name: str) -> None:
    written = nifti(tmp_path / ("a.nii.gz" if name == "a.nii.gz" else "a.nii"), values()).rename(tmp_path / name)
    volume = read_volume(written)
    assert isinstance(volume, MetaTensor)
    assert volume.dtype == torch.float32
    assert volume.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume[0].numpy(), values())
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-4)
    assert volume.meta["filename_or_obj"] == str(written)


def test_header_scaling_is_applied(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii.gz", values(), slope=2.0, inter=-1024.0))
    np.testing.assert_array_equal(volume[0].numpy(), 2.0 * values() - 1024.0)


def test_second_version_of_nifti_and_trailing_axes_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(values()[..., None], oblique()), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").shape == (1, *SHAPE)


def test_inverted_prediction_is_saved_with_the_geometry_of_its_image(tmp_path: Path) -> None:
    image = nifti(tmp_path / "patient.nii.gz", values(np.float32))
    before = Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", (1.5, 1.5, 2.0), mode="bilinear"),
        ]
    )
    loaded = before({"image": str(image)})
    assert loaded["image"].shape != (1, *SHAPE)
    after = Compose(
        [
            Lambdad("image", lambda tensor: tensor, overwrite="pred"),
            Invertd("pred", before, orig_keys="image", nearest_interp=False),
            SaveImaged("pred", output_dir=tmp_path / "out", output_postfix="seg", resample=False, print_log=False),
        ]
    )
    after(loaded)
    saved = tmp_path / "out/patient/patient_seg.nii.gz"
    result, original = nibabel.load(saved), nibabel.load(image)
    assert result.shape == original.shape
    np.testing.assert_allclose(result.affine, original.affine, atol=1e-4)
    inside = (slice(3, -3), slice(3, -3), slice(2, -2))
    np.testing.assert_allclose(result.get_fdata()[inside], original.get_fdata()[inside], atol=20)


def test_resampling_saver_knows_the_original_grid(tmp_path: Path) -> None:
    image = nifti(tmp_path / "patient.nii.gz", values(np.float32))
    steps = Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", "RAS", labels=None),
            SaveImaged("image", output_dir=tmp_path / "out", output_postfix="", resample=True, print_log=False),
        ]
    )
    steps({"image": str(image)})
    result = nibabel.load(tmp_path / "out/patient/patient.nii.gz")
    np.testing.assert_allclose(result.affine, oblique(), atol=1e-4)
    np.testing.assert_allclose(result.get_fdata(), values(), atol=1e-2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((14, 12), np.int16), "14 x 12 x 1 voxels are a single slice; give the whole volume or series"),
        (np.zeros((14, 12, 1), np.int16), "a single slice"),
        (np.zeros((1, 12, 14), np.int16), "a single slice"),
        (np.zeros((*SHAPE, 3), np.int16), "14 x 12 x 7 x 3 voxels are several volumes; save one volume a file"),
        (np.zeros(SHAPE, np.complex64), "values of type complex64"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "convert it to grey"),
        (np.where(values() == 0, np.nan, 1).astype(np.float32), "not finite numbers; send a volume without NaN"),
        (np.where(values() == 0, np.inf, 1).astype(np.float32), "not finite numbers"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(tmp_path: Path, data: np.ndarray, message: str) -> None:
    path = nifti(tmp_path / "a.nii.gz", data)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"volume {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "affine", [np.diag([1.0, 1.0, 0.0, 1.0]), np.diag([1.0, np.nan, 1.0, 1.0]), np.diag([1e-6, 1.0, 1.0, 1.0])]
)
def test_affine_that_places_nothing_is_refused(tmp_path: Path, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(values(), None)
    image.header.set_sform(affine, code=1)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    with pytest.raises(VolumeError, match="places no volume"):
        read_volume(tmp_path / "a.nii")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """A wrong checksum at the end of the gzip stream."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda data: cut(gzip.decompress(data)), lambda _: b"", lambda _: b"a" * 999]
)
def test_damaged_file_is_refused(tmp_path: Path, damage: Any) -> None:
    path = nifti(tmp_path / "a.nii.gz", values())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VolumeError):
        read_volume(path)


def test_header_that_claims_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", values())
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="the header claims 30000 x 30000 x 30000 voxels"):
        read_volume(path)


def test_flat_pictures_and_missing_files_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match="a flat picture; give a NIfTI, or a folder"):
        read_volume(tmp_path / "a.png")
    with pytest.raises(VolumeError, match="check that the file is there"):
        read_volume(tmp_path / "b.nii")


def test_refusal_fits_quarantine_and_travels_between_processes(tmp_path: Path) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(nifti(tmp_path / "a.nii", np.zeros((4, 4), np.int16)))
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, RadiographError)
    assert str(error) == str(caught.value)
    quarantine = Quarantine(tmp_path)
    quarantine.reject("a.nii", error)
    assert quarantine.rejected()[0]["reason"] == "4 x 4 x 1 voxels are a single slice"


def load_both(image: Path, mask: Path, classes: Any = ("kidney", "tumour")) -> dict[Any, Any]:
    steps = Compose([LoadVolumed("image"), LoadVolumeMaskd("label", classes)])
    loaded: dict[Any, Any] = steps({"image": str(image), "label": str(mask)})
    return loaded


def test_mask_lies_on_its_image(tmp_path: Path) -> None:
    loaded = load_both(nifti(tmp_path / "i.nii.gz", values()), nifti(tmp_path / "m.nii.gz", mask_values()))
    assert loaded["label"].dtype == torch.float32
    np.testing.assert_array_equal(loaded["label"][0].numpy(), mask_values())
    np.testing.assert_allclose(loaded["label"].affine, loaded["image"].affine, atol=1e-4)


def test_mask_with_other_axes_is_turned_onto_its_image(tmp_path: Path) -> None:
    image = nifti(tmp_path / "i.nii.gz", values())
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask_values(), oblique()))
    swapped = turned.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nibabel.save(swapped, tmp_path / "m.nii.gz")
    assert swapped.shape != SHAPE
    loaded = load_both(image, tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(loaded["label"][0].numpy(), mask_values())
    np.testing.assert_allclose(loaded["label"].affine, oblique(), atol=1e-4)


def test_rounding_of_a_header_is_no_shift(tmp_path: Path) -> None:
    moved = oblique()
    moved[:3, 3] += 0.01
    image = nifti(tmp_path / "i.nii.gz", values())
    load_both(image, nifti(tmp_path / "m.nii.gz", mask_values(), moved))


def shifted() -> np.ndarray:
    affine = oblique()
    affine[0, 3] += 0.5
    return affine


@pytest.mark.parametrize(
    ("mask", "affine", "message"),
    [
        (mask_values()[:-1], oblique(), "has 13 x 12 x 7 voxels but .* has 14 x 12 x 7; draw it on that grid"),
        (mask_values(), shifted(), "lies up to 0.5 mm beside .*; save it with the image's geometry"),
        (mask_values(), oblique((0.8, 0.9, 3.0)), "mm beside"),
        (mask_values() * 3, oblique(), "holds 3, 6 but the classes are 0 to 2; mend the mask or the classes"),
        (mask_values() * np.float32(0.5), oblique(), r"holds 0\.5 but the classes"),
        (mask_values().astype(np.int16) - 1, oblique(), "holds -1 but the classes"),
        (np.where(mask_values() > 1, np.nan, 0).astype(np.float32), oblique(), "holds nan but the classes"),
        (np.zeros((*SHAPE, 2), np.uint8), oblique(), r"cannot be read \(14 x 12 x 7 x 2 voxels are several volumes\)"),
    ],
)
def test_mask_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, mask: np.ndarray, affine: np.ndarray, message: str
) -> None:
    image = nifti(tmp_path / "i.nii.gz", values())
    path = nifti(tmp_path / "m.nii.gz", mask, affine)
    with pytest.raises(UserError, match=message) as caught:
        check_volume_mask(path, image, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError) as wrapped:  # MONAI's Compose
        load_both(image, path)
    assert isinstance(wrapped.value.__cause__, UserError)


def test_missing_mask_and_missing_image_are_told(tmp_path: Path) -> None:
    image = nifti(tmp_path / "i.nii.gz", values())
    with pytest.raises(UserError, match=r"mask .*no.nii cannot be read"):
        check_volume_mask(tmp_path / "no.nii", image, 2)
    with pytest.raises(VolumeError, match=r"volume .*no.nii"):
        check_volume_mask(image, tmp_path / "no.nii", 2)


@pytest.mark.parametrize("classes", [0, [], "kidney"])
def test_classes_are_names_or_their_number(classes: Any) -> None:
    with pytest.raises(ValueError, match="classes must be"):
        LoadVolumeMaskd("label", classes)
