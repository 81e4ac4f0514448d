"""The synthetic series: read as ITK reads them, in the same place as the NIfTI files beside them."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pydicom
import pytest
from monai.transforms import Orientation

from msdino_monai.images.abdomen import CLASSES
from msdino_monai.images.abdomen.dicom import encode_slices
from msdino_monai.images.abdomen.folder import encode_nifti
from msdino_monai.images.abdomen.plan import Patient
from msdino_monai.images.abdomen.scan import Scan, make_scan
from msdino_monai.images.volume import read_volume, read_volume_mask


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["site_a", "site_b", "site_c"])
def scan(request: pytest.FixtureRequest) -> Scan:
    return make_scan(Patient(3, request.param, 0, True), 40, 6)


@pytest.fixture
def series(scan: Scan, tmp_path: Path) -> Path:
    (tmp_path / "series").mkdir()
    for number, content in enumerate(encode_slices(scan)):
        (tmp_path / "series" / f"{number:04d}.dcm").write_bytes(content)
    return tmp_path / "series"


# ITK loads lazily, and its SWIG modules crash where the DeprecationWarning they give is an error.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_itk_reads_the_same_values_in_the_same_places(series: Path) -> None:
    image = itk.imread(sorted(map(str, series.iterdir())), itk.F)
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    affine[:3, 3] = list(image.GetOrigin())
    volume = read_volume(series)
    np.testing.assert_array_equal(volume[0].numpy(), itk.array_from_image(image).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)


def test_series_and_nifti_show_one_patient(scan: Scan, series: Path, tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(encode_nifti(scan.stored, scan.affine, scan.site.stored_from))
    upright = Orientation("RAS", labels=None)
    first, second = (upright(read_volume(path)) for path in (series, tmp_path / "image.nii.gz"))
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)


def test_label_lies_on_the_series_too(scan: Scan, series: Path, tmp_path: Path) -> None:
    (tmp_path / "label.nii.gz").write_bytes(encode_nifti(scan.label, scan.affine))
    volume = read_volume(series)
    mask = read_volume_mask(tmp_path / "label.nii.gz", volume, len(CLASSES))
    for number in (1, 2):
        assert int((mask == number).sum()) == int((scan.label == number).sum()) > 0
    measured = volume[mask == 1].mean(), scan.hounsfield[scan.label == 1].mean()
    assert measured[0] == pytest.approx(measured[1], abs=0.1)


def test_it_says_it_is_synthetic(series: Path) -> None:
    slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    assert len({each.SeriesInstanceUID for each in slices}) == 1
    assert len({each.SOPInstanceUID for each in slices}) == len(slices)
    for each in slices:
        assert all("SYNTHETIC" in each.get(name) for name in ("Manufacturer", "PatientComments", "InstitutionName"))
