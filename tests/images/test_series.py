"""DICOM series: sorted, rescaled, placed as ITK places them, refused in one line that names the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, Orientationd, SaveImaged
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, generate_uid

from msdino_monai.errors import UserError
from msdino_monai.images.volume import LoadVolumed, VolumeError, read_volume, read_volume_mask

ROWS, COLUMNS, SLICES = 10, 12, 5
SPACING = ["0.7", "0.9"]  # between rows, between columns
STEP = 3.0


def direction(degrees: float = 0.0) -> list[float]:
    angle = np.deg2rad(degrees)
    return [1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle))]


def position(index: float, degrees: float = 0.0) -> list[float]:
    angle = np.deg2rad(degrees)
    normal = np.array([0.0, -np.sin(angle), np.cos(angle)])
    place: list[float] = (np.array([-50.0, -60.0, 100.0]) + index * STEP * normal).tolist()
    return place


def slice_values(index: int) -> np.ndarray:
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    return (1000 + 100 * index + 10 * rows + columns).astype(np.int16)


@pytest.fixture
def write_slice(tmp_path: Path, write_dicom: Callable[..., Path]) -> Callable[..., Path]:
    """Write one slice of the series in `series/`; keywords change its header."""
    (tmp_path / "series").mkdir()
    uid = generate_uid()

    def write(index: int, name: str | None = None, degrees: float = 0.0, **header: Any) -> Path:
        common = {
            "Modality": "CT",
            "SOPInstanceUID": generate_uid(),
            "SeriesInstanceUID": uid,
            "SeriesDescription": "abdomen",
            "ImageOrientationPatient": direction(degrees),
            "ImagePositionPatient": position(index, degrees),
            "PixelSpacing": SPACING,
            "RescaleSlope": "2",
            "RescaleIntercept": "-1024",
        }
        pixels = header.pop("pixels", slice_values(index))
        return write_dicom(pixels, f"series/{name or index}", **{**common, **header})

    return write


@pytest.fixture
def series(write_slice: Callable[..., Path]) -> Path:
    """Five slices, whose names and order of writing say nothing of where they lie."""
    for place, index in enumerate([3, 0, 4, 1, 2]):
        path = write_slice(index, name=f"IM{place}")
    return path.parent


def expected() -> np.ndarray:
    return np.stack([2.0 * slice_values(index).T - 1024.0 for index in range(SLICES)], axis=-1)


def test_slices_are_sorted_rescaled_and_placed(series: Path) -> None:
    volume = read_volume(series)
    np.testing.assert_array_equal(volume[0].numpy(), expected())
    affine = [[-0.9, 0, 0, 50], [0, -0.7, 0, 60], [0, 0, 3, 100], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def test_subfolders_and_documents_beside_the_slices_do_not_matter(series: Path) -> None:
    (series / "deep").mkdir()
    (series / "IM0").rename(series / "deep/IM0")
    (series / "README.txt").write_text("exported on Tuesday")
    np.testing.assert_array_equal(read_volume(series)[0].numpy(), expected())


def test_padding_gets_the_lowest_real_value(series: Path, write_slice: Callable[..., Path]) -> None:
    pixels = slice_values(0)
    pixels[0, :3] = -2000
    (series / "IM1").unlink()
    write_slice(0, pixels=pixels, PixelPaddingValue=-2000)
    volume = read_volume(series)[0].numpy()
    assert volume.min() == 2.0 * 1003 - 1024.0
    assert (volume[:3, 0, 0] == volume.min()).all()


def test_result_is_saved_where_the_series_lies(series: Path, tmp_path: Path) -> None:
    named = series.rename(tmp_path / "1.2.840.10008.7")
    steps = Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", "RAS", labels=None),
            SaveImaged("image", output_dir=tmp_path / "out", output_postfix="seg", resample=True, print_log=False),
        ]
    )
    steps({"image": str(named)})
    result = nibabel.load(tmp_path / "out/1.2.840.10008.7/1.2.840.10008.7_seg.nii.gz")
    np.testing.assert_allclose(result.affine, read_volume(named).affine, atol=1e-4)
    np.testing.assert_allclose(result.get_fdata(), expected(), atol=1e-2)


def test_mask_drawn_on_a_converted_series_is_turned(series: Path, tmp_path: Path) -> None:
    """Converters flip rows; what was drawn on their file lies right on the series."""
    volume = read_volume(series)
    mask = np.zeros((COLUMNS, ROWS, SLICES), dtype=np.uint8)
    mask[2:5, 1:4, 1:3] = 1
    converted = nibabel.Nifti1Image(mask, volume.affine.numpy()).as_reoriented(np.array([[0, 1], [1, -1], [2, 1]]))
    nibabel.save(converted, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_volume_mask(tmp_path / "mask.nii.gz", volume, 1)[0].numpy(), mask)


def test_tilted_gantry_is_kept_as_shear(series: Path, write_slice: Callable[..., Path]) -> None:
    for path in series.iterdir():
        path.unlink()
    for index in range(SLICES):
        write_slice(index, ImagePositionPatient=[-50.0, -60.0 + 0.4 * index, 100.0 + 3.0 * index])
    np.testing.assert_allclose(read_volume(series).affine[:3, 2], [0.0, -0.4, 3.0], atol=1e-6)


def uneven(write: Callable[..., Path]) -> None:
    write(5, ImagePositionPatient=position(5.4))


def without(name: str) -> Callable[[Callable[..., Path]], None]:
    return lambda write: (
        Path(write(0, name="scratch").parent, name).unlink() or (Path(write(0, name="scratch")).unlink())
    )


FAULTS: dict[str, tuple[Callable[[Callable[..., Path]], Any], str]] = {
    "missing": (without("IM3"), r"1 slices are missing, such as between 100 and 106 mm; export the whole series again"),
    "twice in one place": (lambda write: write(2, name="again"), "1 places hold two slices; give one volume"),
    "uneven": (uneven, r"slices lie up to [\d.]+ mm beside an even grid; resample it with equal steps"),
    "another series": (
        lambda write: write(9, SeriesInstanceUID="1.2.3", SeriesDescription="scout"),
        r"2 series \(CT 'abdomen' with 5 files, CT 'scout' with 1 files\); give a folder for each",
    ),
    "orientations": (lambda write: write(9, degrees=30.0), "slices of several orientations"),
    "sizes": (lambda write: write(5, pixels=slice_values(5)[:-1]), "slices of several sizes or pixel spacings"),
    "spacings": (lambda write: write(5, PixelSpacing=["0.7", "1.1"]), "slices of several sizes or pixel spacings"),
    "no place": (lambda write: write(5, ImagePositionPatient=[]), "5 does not say where it lies in the patient"),
    "impossible": (lambda write: write(5, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "5 has impossible directions"),
    "slope 0": (lambda write: write(5, RescaleSlope="0"), "5 has the rescale slope 0"),
    "colour": (
        lambda write: write(5, pixels=np.zeros((ROWS, COLUMNS, 3), np.uint8)),
        "5 holds no grey image but RGB; take it out of the folder",
    ),
    "another file": (
        lambda write: (write(5).parent / "5").write_bytes(b"no image at all"),
        r"5 is not DICOM \(not DICOM, PNG, JPEG or NIfTI\); take it out of the folder",
    ),
    "cut pixels": (
        lambda write: write(5, PixelData=b"\0" * 20),
        "5: .*; export the whole series again",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_series_that_is_not_one_whole_volume_is_refused(
    series: Path, write_slice: Callable[..., Path], fault: str
) -> None:
    spoil, message = FAULTS[fault]
    spoil(write_slice)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(series)
    assert str(caught.value).startswith(f"volume {series}: ")
    assert "\n" not in str(caught.value)


def test_copy_of_a_slice_is_refused(series: Path) -> None:
    shutil.copy(series / "IM0", series / "IM9")
    with pytest.raises(VolumeError, match="1 images are there twice"):
        read_volume(series)


def test_single_slice_is_no_volume(series: Path) -> None:
    for path in series.glob("IM[1-4]"):
        path.unlink()
    for given in (series, series / "IM0"):
        with pytest.raises(VolumeError, match="a single slice; give the folder that holds the whole series"):
            read_volume(given)


def test_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        read_volume(tmp_path / "empty")


def group(**values: Any) -> Sequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def frames() -> Iterator[Dataset]:
    for index in (2, 0, 1):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=position(index))
        yield frame


@pytest.fixture
def enhanced(write_dicom: Callable[..., Path]) -> Path:
    """Three frames in one file, out of order."""
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=direction())
    shared.PixelMeasuresSequence = group(PixelSpacing=SPACING, SliceThickness="3")
    shared.PixelValueTransformationSequence = group(RescaleSlope="2", RescaleIntercept="-1024", RescaleType="HU")
    pixels = np.stack([slice_values(index) for index in (2, 0, 1)])
    return write_dicom(
        pixels,
        "enhanced.dcm",
        Modality="CT",
        PhotometricInterpretation="MONOCHROME2",
        SamplesPerPixel=1,
        PlanarConfiguration=None,
        NumberOfFrames=3,
        Rows=ROWS,
        Columns=COLUMNS,
        SOPClassUID=CTImageStorage,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(list(frames())),
    )


def test_enhanced_file_is_a_volume(enhanced: Path) -> None:
    volume = read_volume(enhanced)
    np.testing.assert_array_equal(volume[0].numpy(), expected()[..., :3])
    np.testing.assert_allclose(volume.affine[:3, 3], [50, 60, 100], atol=1e-6)


def test_frames_without_places_are_refused(enhanced: Path) -> None:
    dataset = pydicom.dcmread(enhanced)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(enhanced)
    with pytest.raises(VolumeError, match="3 frames without a place in the patient"):
        read_volume(enhanced)
