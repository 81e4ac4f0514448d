"""Radiographs made on the spot, well-formed until a test says otherwise."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

# One thread in every process, children too: sums then round alike everywhere, and test processes do not crowd a core.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth asymmetric 12-bit scene: a bright corner, a dark one, a slope."""
    rows, columns = np.mgrid[0:96, 0:80]
    blob = 2000 * np.exp(-((rows - 20.0) ** 2 + (columns - 60.0) ** 2) / 200)
    return np.round(400 + 12 * rows + 5 * columns + blob).astype(np.uint16)


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write `pixels` as a CR image; keywords overwrite or (with `None`) delete header elements."""

    def write(pixels: np.ndarray, name: str = "image.dcm", **header: Any) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(tmp_path / name), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.Modality = "CR"
        dataset.PatientName = "Doe^Jane"
        dataset.PatientID = "hospital-number-77"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
        dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
        for keyword, value in header.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        path = tmp_path / name
        if int(pydicom.__version__.split(".")[0]) >= 3:
            dataset.save_as(path, enforce_file_format=True)
        else:
            dataset.is_little_endian, dataset.is_implicit_VR = True, False
            dataset.save_as(path, write_like_original=False)
        return path

    return write


@pytest.fixture(scope="session")
def pydicom_files() -> list[Path]:
    """All of pydicom's own test files, and those of the `pydicom-data` package."""
    own = Path(pydicom.data.__file__).parent / "test_files"
    store = importlib.util.find_spec("data_store")
    assert store is not None, "install the [test] extra"
    more = Path(next(iter(store.submodule_search_locations or []))) / "data"
    return sorted(path for root in (own, more) for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def chest(pydicom_files: list[Path]) -> Path:
    """A real PA chest radiograph, uncompressed, MONOCHROME1."""
    return next(path for path in pydicom_files if path.name == "RG1_UNCR.dcm")
