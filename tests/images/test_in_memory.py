"""Images that a program hands over instead of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image

from msdino_monai.errors import RadiographError
from msdino_monai.images.geometry import Geometry, to_stored_grid
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.images.volume import LoadVolumed, VolumeError

load = LoadRadiograph(img_size=48)
AFFINE = np.array([[0.0, 0, 4, -3], [-2.0, 0, 0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 900, "WindowWidth": 600},
        {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 900, "WindowWidth": 600},
    ],
)
def test_stored_values_with_their_header_are_what_the_file_is(
    header: dict[str, Any], picture: np.ndarray, write_dicom: Callable[..., Path]
) -> None:
    expected = load(write_dicom(picture, **header))
    found = load(MetaTensor(torch.from_numpy(picture.astype(np.int32)), meta={**header, "Modality": "CR"}))
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor())


@pytest.mark.parametrize("shape", [(96, 80), (1, 96, 80)])
def test_array_without_a_word_is_an_upright_picture(
    shape: tuple[int, ...], picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    torch.testing.assert_close(load(picture.reshape(shape)).as_tensor(), load(tmp_path / "a.png").as_tensor())


def test_colours_are_what_their_file_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    torch.testing.assert_close(load(pixels).as_tensor(), load(tmp_path / "a.png").as_tensor())


def test_number_type_that_numpy_lacks_is_taken(picture: np.ndarray) -> None:
    brain_float = torch.from_numpy(picture.astype(np.float32)).to(torch.bfloat16)
    assert torch.equal(load(brain_float).as_tensor(), load(brain_float.float()).as_tensor())


@pytest.mark.filterwarnings("ignore:NvImgCodec:UserWarning")  # MONAI tries all of its readers
@pytest.mark.parametrize("affine", [np.diag([-0.2, -0.3, 1, 1]), np.diag([0.2, 0.2, 1, 1]), AFFINE])
def test_slice_that_monai_loaded_hangs_by_its_affine_as_its_file_does(
    affine: np.ndarray, picture: np.ndarray, tmp_path: Path
) -> None:
    nibabel.save(nibabel.Nifti1Image(picture.astype(np.float32)[..., None], affine), tmp_path / "a.nii.gz")
    expected = load(tmp_path / "a.nii.gz")
    for loader in (LoadImage("NibabelReader"), LoadImage("NibabelReader", ensure_channel_first=True)):
        found = load(loader(tmp_path / "a.nii.gz"))
        torch.testing.assert_close(found.as_tensor(), expected.as_tensor())
        assert Geometry.of(found.meta, (48, 48)) == Geometry.of(expected.meta, (48, 48))


@pytest.mark.filterwarnings(
    "ignore:NvImgCodec:UserWarning", "ignore:PydicomReader:UserWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("reader", ["PILReader", "PydicomReader", "ITKReader"])
@pytest.mark.parametrize("channel", [True, False])
def test_picture_that_monai_loaded_is_what_its_file_is(
    reader: str, channel: bool, picture: np.ndarray, write_dicom: Callable[..., Path], tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    path = tmp_path / "a.png" if reader == "PILReader" else write_dicom(picture)
    found = load(LoadImage(reader, ensure_channel_first=channel)(path))
    torch.testing.assert_close(found.as_tensor(), load(path).as_tensor())


# ITK loads lazily, and its SWIG modules crash where the DeprecationWarning they give is an error.
@pytest.mark.filterwarnings("ignore:NvImgCodec:UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("lps_to_ras", [True, False])
def test_monochrome1_that_itk_has_turned_over_is_not_turned_again(
    lps_to_ras: bool, picture: np.ndarray, write_dicom: Callable[..., Path]
) -> None:
    path = write_dicom(picture, PhotometricInterpretation="MONOCHROME1")
    found = load(LoadImage("ITKReader", affine_lps_to_ras=lps_to_ras)(path))
    torch.testing.assert_close(found.as_tensor(), load(path).as_tensor())


@pytest.mark.filterwarnings("ignore:NvImgCodec:UserWarning")
def test_flat_nifti_with_a_channel_hangs_by_its_own_axes(picture: np.ndarray, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(picture.T.astype(np.float32), np.diag([-0.2, -0.3, 1, 1])), tmp_path / "a.nii.gz")
    found = load(LoadImage("NibabelReader", ensure_channel_first=True)(tmp_path / "a.nii.gz"))
    torch.testing.assert_close(found.as_tensor(), load(tmp_path / "a.nii.gz").as_tensor())


def test_slice_with_columns_first_and_no_affine_is_turned(picture: np.ndarray) -> None:
    found = load(picture.T[..., None])
    torch.testing.assert_close(found.as_tensor(), load(picture).as_tensor())
    assert to_stored_grid(found.as_tensor(), Geometry.of(found.meta, (48, 48))).shape == (1, 80, 96)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 5, 6)), "is not one image"),
        (np.zeros((0, 5)), "shape"),
        (np.zeros((9, 9), dtype=complex), "complex"),
        (np.full((9, 9), "grey"), "values of type <U4"),
        (np.full((9, 9), None), "values of type object"),
        (torch.zeros(9, 9).to_sparse(), "a tensor of torch.float32, torch.sparse_coo"),
        ([1, 2], "a list"),
        (MetaTensor(torch.rand(9, 9), meta={"modality": "CT"}), "CT is not a radiograph"),
        (np.full((9, 9), 3.0), "same value"),
    ],
)
def test_what_is_no_radiograph_is_refused(image: Any, reason: str) -> None:
    with pytest.raises(RadiographError, match=reason):
        load(image)


@pytest.mark.parametrize("channel", [True, False])
def test_volume_keeps_values_and_place(channel: bool) -> None:
    values = torch.arange(3 * 4 * 5, dtype=torch.int16).reshape(3, 4, 5)
    given = MetaTensor(values[None] if channel else values, affine=torch.from_numpy(AFFINE))
    volume = LoadVolumed("image")({"image": given})["image"]
    assert torch.equal(volume.as_tensor(), values[None].float())
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_volume_in_lps_is_turned_to_ras_unless_deploy_says_so_of_ras() -> None:
    values, deploy = torch.rand(3, 4, 5), {"nifti_affine_transform": AFFINE}
    for more, sign in (({}, -1.0), (deploy, 1.0)):
        given = MetaTensor(values, affine=torch.from_numpy(AFFINE), meta={MetaKeys.SPACE: SpaceKeys.LPS, **more})
        volume = LoadVolumed("image")({"image": given})["image"]
        np.testing.assert_allclose(volume.affine, np.diag([sign, sign, 1, 1]) @ AFFINE)
        assert volume.meta[MetaKeys.SPACE] == SpaceKeys.RAS


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((3, 4, 5)), "MetaTensor with an affine"),
        (MetaTensor(torch.full((3, 4, 5), torch.nan)), "not finite"),
        (MetaTensor(torch.rand(2, 3, 4, 5)), "several volumes"),
        (MetaTensor(torch.zeros(3, 4, 5, dtype=torch.complex64)), "values of type complex64"),
        (MetaTensor(torch.rand(3, 4, 1)), "single slice"),
        (MetaTensor(torch.rand(3, 4, 5), affine=torch.zeros(4, 4)), "places no volume"),
    ],
)
def test_what_is_no_volume_is_refused(image: Any, reason: str) -> None:
    with pytest.raises(VolumeError, match=reason):
        LoadVolumed("image")({"image": image})
