from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, decollate_batch
from PIL import ExifTags, Image

from msdino_monai.images.geometry import Geometry, spacing_in_mm, to_network_grid, to_stored_grid
from msdino_monai.images.radiograph import Orientation
from msdino_monai.images.transforms import LoadRadiograph, LoadRadiographd

TURNS = [Orientation(*parts) for parts in itertools.product([False, True], repeat=3)]


def bright_block(rows: int = 96, columns: int = 64) -> np.ndarray:
    """An unsymmetric block on a slope, so that the picture has contrast and a place."""
    pixels = np.zeros((rows, columns), dtype=np.uint16)
    pixels[rows // 8 : rows // 2, columns // 6 : columns // 2] = 4000
    return pixels


@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize("aspect", [1.0, 0.5, 1.7])
def test_mask_lands_where_the_picture_does(turn: Orientation, aspect: float, tmp_path: Path) -> None:
    """Load the mask as if it were the image: the bright pixels must be those of the transformed mask."""
    pixels = bright_block()
    affine = np.diag([1.0, aspect, 1.0, 1.0])  # of (columns, rows)
    axes = np.array([[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    stored = pixels.T  # a NIfTI's first axis runs along columns
    if turn.flip_rows:
        stored, axes = stored[:, ::-1], axes @ np.diag([1.0, -1, 1, 1])
    if turn.flip_columns:
        stored, axes = stored[::-1], axes @ np.diag([-1.0, 1, 1, 1])
    matrix = axes @ affine
    if turn.transpose:
        stored, matrix = stored.T, matrix[:, [1, 0, 2, 3]]
    path = tmp_path / "image.nii"
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(stored), matrix), path)
    for size in ((48, 48), (40, 72), (150, 130)):
        image = LoadRadiograph(size)(path)
        geometry = Geometry.of(image.meta, size)
        mask = to_network_grid(torch.from_numpy((stored > 2000).astype(np.uint8))[None], geometry)
        assert mask.shape == (1, *size)
        assert mask.dtype == torch.uint8
        seen = image.as_tensor() > 0.5
        disagreement = (seen != mask.bool()).float().mean()
        assert disagreement < 0.02, f"{size}: {disagreement}"


@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize(("shape", "size"), [((96, 64), (64, 64)), ((50, 130), (32, 48)), ((30, 20), (64, 64))])
def test_way_there_and_back_keeps_a_mask(turn: Orientation, shape: tuple[int, int], size: tuple[int, int]) -> None:
    mask = torch.from_numpy((bright_block(*shape) > 0).astype(np.float32))[None]
    geometry = Geometry(shape, turn, 1.0, size)
    back = to_stored_grid(to_network_grid(mask, geometry), geometry)
    assert back.shape == mask.shape
    overlap = 2 * ((back > 0.5) & (mask > 0.5)).sum() / ((back > 0.5).sum() + (mask > 0.5).sum())
    assert overlap > 0.93


def test_way_there_and_back_is_exact_where_nothing_is_resized() -> None:
    mask = torch.randint(0, 7, (1, 40, 64), generator=torch.Generator().manual_seed(0))
    for turn in TURNS:
        size = (64, 64)
        geometry = Geometry((40, 64), turn, 1.0, size)
        assert geometry.fitted_shape == (40, 64)
        torch.testing.assert_close(to_stored_grid(to_network_grid(mask, geometry).float(), geometry), mask.float())


def test_probabilities_give_smoother_edges_than_classes() -> None:
    """A slanted edge, four times enlarged: interpolating before the decision must come closer to the truth."""
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    truth = (columns > 60 + 0.37 * rows)[None]
    geometry = Geometry((256, 256), Orientation(), 1.0, (64, 64))
    probability = torch.nn.functional.interpolate(truth[None].float(), size=(64, 64), mode="area")[0]
    smooth = to_stored_grid(probability, geometry) > 0.5
    stairs = to_stored_grid((probability > 0.5).float(), geometry) > 0.5
    assert (smooth != truth).sum() < 0.5 * (stairs != truth).sum()


def test_geometry_survives_a_batch(write_dicom: Callable[..., Path]) -> None:
    files = [
        write_dicom(bright_block(), "a.dcm", PixelSpacing=[0.4, 0.2]),
        write_dicom(bright_block(80, 96), "b.dcm", PatientOrientation=["F", "L"]),
    ]
    load = LoadRadiographd(keys="image", img_size=32)
    loader = DataLoader([load({"image": file}) for file in files], batch_size=2)
    (batch,) = loader
    for item, file in zip(decollate_batch(batch), files, strict=True):
        assert Geometry.of(item["image"].meta, (32, 32)) == Geometry.of(load({"image": file})["image"].meta, (32, 32))
    assert Geometry.of(load({"image": files[0]})["image"].meta, (32, 32)).aspect == 2.0
    assert Geometry.of(load({"image": files[1]})["image"].meta, (32, 32)).orientation.transpose


def test_other_sizes_are_refused() -> None:
    geometry = Geometry((40, 64), Orientation(), 1.0, (32, 32))
    with pytest.raises(ValueError, match=r"mask must be of size \(40, 64\), got \(64, 40\)"):
        to_network_grid(torch.zeros(1, 64, 40), geometry)
    with pytest.raises(ValueError, match=r"values must be of size \(32, 32\), got \(40, 64\)"):
        to_stored_grid(torch.zeros(1, 40, 64), geometry)


def test_spacing_is_known_only_in_millimetres(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    pixels = bright_block()
    assert spacing_in_mm(write_dicom(pixels, "a.dcm", PixelSpacing=[0.4, 0.2])) == (0.4, 0.2)
    assert spacing_in_mm(write_dicom(pixels, "b.dcm", ImagerPixelSpacing=[0.1, 0.1])) == (0.1, 0.1)
    assert spacing_in_mm(write_dicom(pixels, "c.dcm", PixelSpacing=[0, 0], ImagerPixelSpacing=[0.3, 0.3])) == (0.3, 0.3)
    assert spacing_in_mm(write_dicom(pixels, "d.dcm", PixelAspectRatio=[4, 3])) is None
    assert spacing_in_mm(write_dicom(pixels, "e.dcm")) is None
    nibabel.save(nibabel.Nifti1Image(pixels, np.diag([0.7, 0.9, 1, 1])), tmp_path / "f.nii.gz")
    assert spacing_in_mm(tmp_path / "f.nii.gz") == pytest.approx((0.7, 0.9))
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = 6
    Image.fromarray((pixels // 16).astype(np.uint8)).save(tmp_path / "g.png", exif=tag)
    assert spacing_in_mm(tmp_path / "g.png") is None


def test_real_chest_and_its_turned_copy_have_the_same_picture(chest: Path, tmp_path: Path) -> None:
    """A copy stored upside down and mirrored, with the tag that says so, brings the same mask back to its own grid."""
    dataset = pydicom.dcmread(chest)
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[::-1, ::-1]).tobytes()
    dataset.PatientOrientation = ["R", "H"]
    dataset.save_as(tmp_path / "turned.dcm")
    upright, turned = LoadRadiograph(64)(chest), LoadRadiograph(64)(tmp_path / "turned.dcm")
    torch.testing.assert_close(turned.as_tensor(), upright.as_tensor(), atol=1e-2, rtol=0)
    score = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    there = to_stored_grid(score, Geometry.of(upright.meta, (64, 64)))
    torch.testing.assert_close(to_stored_grid(score, Geometry.of(turned.meta, (64, 64))), there.flip(-2, -1))
