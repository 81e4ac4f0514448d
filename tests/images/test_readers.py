"""PNG, JPEG and NIfTI, and their agreement with DICOM."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.files import find_images
from msdino_monai.images.transforms import LoadRadiograph, LoadRadiographd


def load(path: Path, size: int = 48) -> torch.Tensor:
    return LoadRadiograph(size)(path).as_tensor()


def nifti(path: Path, pixels: np.ndarray, axes: str = "LP") -> Path:
    """Save (H, W) pixels with columns along axis 0, as converters do; `axes` says where i and j lead."""
    directions = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1)}
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[axes[0]], directions[axes[1]]
    missing = ({0, 1, 2} - {int(np.flatnonzero(directions[axis])[0]) for axis in axes}).pop()
    affine[:3, 2] = np.eye(3)[missing]
    nibabel.save(nibabel.Nifti1Image(pixels.T, affine), path)
    return path


def test_same_picture_in_every_format_gives_the_same_tensor(
    tmp_path: Path, write_dicom: Callable[..., Path], picture: np.ndarray
) -> None:
    expected = load(write_dicom(picture))
    Image.fromarray(picture).save(tmp_path / "sixteen.png")
    Image.fromarray((picture // 16).astype(np.uint8)).save(tmp_path / "eight.png")
    Image.fromarray((picture // 16).astype(np.uint8)).save(tmp_path / "eight.jpg", quality=98)
    for path in (
        tmp_path / "sixteen.png",
        nifti(tmp_path / "a.nii", picture),
        nifti(tmp_path / "b.nii.gz", picture),
        nifti(tmp_path / "c.nii", picture.astype(np.float32)),
    ):
        torch.testing.assert_close(load(path), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(load(tmp_path / "eight.png"), expected, atol=2 / 255, rtol=0)
    torch.testing.assert_close(load(tmp_path / "eight.jpg"), expected, atol=6 / 255, rtol=0)


@pytest.mark.parametrize("axes", ["LP", "RP", "LA", "RA", "LI", "LS", "RS"])
def test_nifti_hangs_by_its_affine(tmp_path: Path, picture: np.ndarray, axes: str) -> None:
    stored = picture[:, ::-1] if axes[0] == "R" else picture
    stored = stored[::-1] if axes[1] in "AS" else stored
    turned = load(nifti(tmp_path / "turned.nii", np.ascontiguousarray(stored), axes))
    torch.testing.assert_close(turned, load(nifti(tmp_path / "upright.nii", picture)))


def test_nifti_with_swapped_axes_hangs_upright(tmp_path: Path, picture: np.ndarray) -> None:
    swapped = load(nifti(tmp_path / "swapped.nii", np.ascontiguousarray(picture.T), "PL"))
    torch.testing.assert_close(swapped, load(nifti(tmp_path / "upright.nii", picture)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("exif", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, picture: np.ndarray, exif: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray((picture // 16).astype(np.uint8))
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = exif
    image.save(tmp_path / "turned.png", exif=tag)
    ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).save(tmp_path / "upright.png", exif=b"")
    torch.testing.assert_close(load(tmp_path / "turned.png"), load(tmp_path / "upright.png"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_modes_become_grey(tmp_path: Path, picture: np.ndarray, mode: str) -> None:
    grey = Image.fromarray((picture // 16).astype(np.uint8))
    grey = grey.point(lambda value: 255 * (value > 100)) if mode == "1" else grey
    grey.save(tmp_path / "grey.png")
    grey.convert(mode).save(tmp_path / "other.png")
    torch.testing.assert_close(load(tmp_path / "other.png"), load(tmp_path / "grey.png"), atol=1e-6, rtol=0)


def test_transparent_pixels_are_air(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:, :32, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    image = load(tmp_path / "half.png", 64)
    assert image[0, :, :32].max() == 0
    assert image[0, :, 32:].min() == 1


def test_broken_files_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    nifti(tmp_path / "whole.nii.gz", picture)
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "whole.nii.gz").read_bytes()[:900])
    (tmp_path / "gzip").write_bytes(b"\x1f\x8bnot gzip")
    (tmp_path / "text.dcm").write_text("this is not an image")
    (tmp_path / "empty.dcm").touch()
    for name in ("cut.png", "cut.nii.gz", "gzip", "text.dcm", "empty.dcm", "absent.dcm"):
        with pytest.raises(RadiographError):
            load(tmp_path / name)


def test_pixels_that_are_not_numbers_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    broken = picture.astype(np.float32)
    broken[3, 4] = np.nan
    with pytest.raises(RadiographError, match="not finite"):
        load(nifti(tmp_path / "nan.nii", broken))


def test_volume_is_refused_or_its_first_slice_used(tmp_path: Path, picture: np.ndarray) -> None:
    volume = np.stack([picture.T, picture.T[::-1]], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 1, 1])), tmp_path / "volume.nii")
    with pytest.raises(RadiographError, match="not one image"):
        load(tmp_path / "volume.nii")
    first = LoadRadiograph(48, allow_first_frame=True)(tmp_path / "volume.nii").as_tensor()
    torch.testing.assert_close(first, load(nifti(tmp_path / "slice.nii", picture)))


def test_result_is_padded_to_the_requested_rectangle(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "image.png")
    image = LoadRadiographd("image", img_size=(64, 128))({"image": tmp_path / "image.png", "other": 1})
    assert image["image"].shape == (1, 64, 128)
    assert image["other"] == 1
    assert image["image"].meta["stored_shape"] == (96, 80)


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="got 0"):
        LoadRadiograph(0)


def test_images_are_found_by_exclusion(tmp_path: Path) -> None:
    for name in ("b/odd name.x7", "a/IM0001", "DICOMDIR", "notes.txt", ".hidden/x.dcm", "datalist.json", "c.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == ["a/IM0001", "b/odd name.x7", "c.PNG"]


def test_empty_or_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images in"):
        find_images(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        find_images(tmp_path / "absent")


def test_deep_grey_with_a_transparent_value_keeps_its_depth(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "plain.png")
    Image.fromarray(picture).save(tmp_path / "transparent.png", transparency=70)
    torch.testing.assert_close(load(tmp_path / "transparent.png"), load(tmp_path / "plain.png"))


def test_deep_colour_is_refused_rather_than_flattened(tmp_path: Path, picture: np.ndarray) -> None:
    """Pillow cannot write 16-bit colour, so the header alone is changed to depth 16."""
    Image.fromarray((picture // 16).astype(np.uint8)).convert("RGB").save(tmp_path / "deep.png")
    data = bytearray((tmp_path / "deep.png").read_bytes())
    data[24] = 16
    (tmp_path / "deep.png").write_bytes(data)
    with pytest.raises(RadiographError, match="16-bit colour"):
        load(tmp_path / "deep.png")


@pytest.mark.parametrize("name", ["no extension", "image.img.gz", "wrong.png", "plain.nii.gz"])
def test_nifti_is_known_by_its_content(tmp_path: Path, picture: np.ndarray, name: str) -> None:
    source = nifti(tmp_path / ("a.nii.gz" if name.endswith(".img.gz") else "a.nii"), picture)
    (tmp_path / name).write_bytes(source.read_bytes())
    torch.testing.assert_close(load(tmp_path / name), load(source))


def test_colour_nifti_becomes_grey(tmp_path: Path, picture: np.ndarray) -> None:
    grey = (picture.T // 16).astype(np.uint8)
    colour = np.zeros(grey.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colour[name] = grey
    nibabel.save(nibabel.Nifti1Image(colour, np.diag([-1, -1, 1, 1])), tmp_path / "colour.nii")
    torch.testing.assert_close(load(tmp_path / "colour.nii"), load(nifti(tmp_path / "grey.nii", grey.T)))


@pytest.mark.parametrize("offset", range(0, 352, 8))
def test_no_damaged_header_gets_past_the_reader(tmp_path: Path, picture: np.ndarray, offset: int) -> None:
    data, refusals = bytearray(nifti(tmp_path / "image.nii", picture).read_bytes()), []
    data[offset : offset + 8] = b"\xff" * 8
    (tmp_path / "broken.nii").write_bytes(data)
    try:
        assert torch.isfinite(load(tmp_path / "broken.nii")).all()
    except RadiographError as error:
        refusals.append(error)
    assert all(error.reason for error in refusals)


def test_flipped_bits_in_a_gzip_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    whole = nifti(tmp_path / "image.nii.gz", picture).read_bytes()
    for offset in range(20, len(whole), len(whole) // 40):
        data = bytearray(whole)
        data[offset] ^= 4
        (tmp_path / "broken.nii.gz").write_bytes(data)
        with pytest.raises(RadiographError):
            load(tmp_path / "broken.nii.gz")


def test_pipe_among_the_images_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RadiographError, match="not a regular file"):
        load(tmp_path / "pipe")


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.dcm").touch()
    (tmp_path / "images/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/deep/loop").symlink_to(tmp_path / "images")
    assert find_images(tmp_path / "images") == ["link/a.dcm"]


def test_own_folders_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/contact_sheet.png").touch()
    (tmp_path / "a.png").touch()
    assert find_images(tmp_path, leave_out=[tmp_path / "out"]) == ["a.png"]


@pytest.mark.parametrize(
    ("written", "picture"),
    [
        (("survey.json", "contact_sheet.png"), "contact_sheet.png"),
        (("audit.json", "pictures/01_0_exported.png", "pictures/01_1.png"), "pictures"),
        (("predictions.json", "explanations/a_effusion.png"), "explanations"),
    ],
)
def test_pictures_of_an_earlier_run_are_no_radiographs(
    tmp_path: Path, written: tuple[str, ...], picture: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Even among radiographs; a picture of such a name that nothing of ours lies beside is somebody's."""
    for name in ("a.png", "b/c.png", "b/pictures/d.png", "b/explanations/e.png", "b/contact_sheet.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    theirs = find_images(tmp_path)
    assert len(theirs) == 5
    for name in written:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level("WARNING"):
        assert find_images(tmp_path) == theirs
    assert f"pictures that this package wrote: {tmp_path / picture}." in caplog.text
