"""The DICOM files: their attributes, and what other readers make of them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import itk
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from msdino_monai.images.cohort.dicom import encode_radiograph
from msdino_monai.images.cohort.plan import Visit
from msdino_monai.images.cohort.radiograph import Radiograph, make_radiograph
from msdino_monai.images.transforms import read_radiograph

# PS3.3 A.26, For Presentation: type 1 has a value, type 2 is there.
TYPE_1 = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality PresentationIntentType
    ImageType SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit
    PixelRepresentation PixelData PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept
    RescaleSlope RescaleType PresentationLUTShape LossyImageCompression BurnedInAnnotation PatientOrientation
    ImageLaterality ImagerPixelSpacing WindowCenter WindowWidth
"""
TYPE_2 = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
    AccessionNumber SeriesNumber Manufacturer InstanceNumber AnatomicRegionSequence DetectorType PositionerType
    AcquisitionContextSequence
"""
META = """
    FileMetaInformationGroupLength FileMetaInformationVersion MediaStorageSOPClassUID MediaStorageSOPInstanceUID
    TransferSyntaxUID ImplementationClassUID
"""


def radiograph_of(site: int, compressed: bool = False) -> Radiograph:
    patients = (Visit(0, site, patient, 0, ("nodule",)) for patient in range(100))
    share = {False: 1.0, True: 0.25}[compressed]
    chosen = next(v for v in patients if not compressed or v.rng("compressed").random() < share)
    return make_radiograph(chosen, 96)


@pytest.fixture(params=[(0, False), (1, False), (2, True)], ids=["site a", "site b", "site c, RLE"])
def radiograph(request: pytest.FixtureRequest) -> Radiograph:
    return radiograph_of(*request.param)


@pytest.fixture
def file(radiograph: Radiograph, tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    path.write_bytes(encode_radiograph(radiograph))
    return path


@pytest.fixture
def strict() -> Iterator[None]:
    settings = pydicom.config.settings
    before = settings.reading_validation_mode
    settings.reading_validation_mode = pydicom.config.RAISE
    yield
    settings.reading_validation_mode = before


def every_element(dataset: Dataset) -> list[object]:
    return [element.value for element in dataset.iterall()]


@pytest.mark.usefixtures("strict")
def test_it_reads_back_under_the_strictest_validation(file: Path, radiograph: Radiograph) -> None:
    dataset = pydicom.dcmread(file)
    assert len(every_element(dataset)) > 70
    assert (dataset.pixel_array == radiograph.exposure.stored).all()


def test_it_has_the_attributes_of_its_iod(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    assert [name for name in TYPE_1.split() if dataset.get(name) in (None, "", [])] == []
    assert [name for name in TYPE_2.split() if name not in dataset] == []
    assert [name for name in META.split() if not dataset.file_meta.get(name)] == []
    for name in ("AnatomicRegionSequence", "ViewCodeSequence"):
        (item,) = dataset[name].value
        assert item.CodeValue
        assert item.CodingSchemeDesignator == "SCT"
        assert item.CodeMeaning
    assert "ViewModifierCodeSequence" in dataset.ViewCodeSequence[0]


def test_its_header_agrees_with_its_pixels(file: Path, radiograph: Radiograph) -> None:
    dataset = pydicom.dcmread(file)
    assert dataset.pixel_array.max() < 2**dataset.BitsStored
    assert dataset.HighBit == dataset.BitsStored - 1
    assert (
        dataset.PresentationLUTShape
        == {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[dataset.PhotometricInterpretation]
    )
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert (dataset.Rows, dataset.Columns) == radiograph.lungs.shape == radiograph.lesions.shape
    assert max(dataset.Rows, dataset.Columns) == 96


def test_it_says_it_is_synthetic(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    for name in ("Manufacturer", "PatientComments", "ImageComments", "InstitutionName"):
        assert "SYNTHETIC" in dataset.get(name)


# ITK loads lazily, and its SWIG modules crash where the DeprecationWarning they give is an error.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_itk_sees_the_same_pixels(file: Path, radiograph: Radiograph) -> None:
    pixels = np.squeeze(itk.GetArrayFromImage(itk.imread(str(file))))
    stored = radiograph.exposure.stored
    if radiograph.style.photometric == "MONOCHROME1":
        stored = 2**radiograph.style.bits - 1 - stored  # ITK hands it over as MONOCHROME2
    assert (pixels == stored).all()


def test_some_files_of_one_site_are_rle_compressed(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    radiograph = radiograph_of(2, compressed=True)
    path.write_bytes(encode_radiograph(radiograph))
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == RLELossless
    assert (dataset.pixel_array == radiograph.exposure.stored).all()


def test_lungs_are_darker_than_the_heart_as_shown(radiograph: Radiograph) -> None:
    stored = radiograph.exposure.stored.astype(float)
    shown = -stored if radiograph.style.photometric == "MONOCHROME1" else stored
    rows, columns = np.nonzero(radiograph.lungs == 2)
    heart = shown[int(rows.max()) - 8, stored.shape[1] // 2]
    assert np.median(shown[rows, columns]) < heart


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_an_independent_validator_finds_no_error(file: Path) -> None:
    result = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    assert "DXImageForPresentation" in result.stderr
    assert "Error" not in result.stderr


@pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="dcmtk is not installed")
def test_dcmtk_shows_the_same_picture(file: Path, tmp_path: Path) -> None:
    """dcm2pnm applies photometric interpretation and window on its own; the order of all pixels must agree."""
    shown = tmp_path / "shown.png"
    subprocess.run(["dcm2pnm", "+on2", "+Wi", "1", str(file), str(shown)], capture_output=True, check=True)
    with Image.open(shown) as image:
        theirs = np.asarray(image, dtype=np.float64)
    ours = read_radiograph(file)
    pixels = (-ours.pixels if ours.inverted else ours.pixels).double().numpy()
    assert theirs.shape == pixels.shape
    assert np.corrcoef(theirs.ravel(), pixels.ravel())[0, 1] > 0.999
