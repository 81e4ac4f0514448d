"""The files of a site: volumes, labels, a datalist, and DICOM series of its test patients."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError
from msdino_monai.images.abdomen.dicom import encode_slices
from msdino_monai.images.abdomen.plan import Patient, sections
from msdino_monai.images.abdomen.scan import make_scan
from msdino_monai.images.cohort.folder import write_bytes, write_json
from msdino_monai.images.cohort.scanner import site_name

NOTICE = "SYNTHETIC abdominal CT volumes, drawn by msdino_monai. No patients. Not for clinical use."
CLASSES = ("kidney", "tumour")  # 1 and 2 in the labels; 0 is background
_PAGE = "volumes.json"


def paths(patient: Patient) -> dict[str, str]:
    """A volume's files, relative to its site's folder."""
    return {"image": f"images/{patient.name}.nii.gz", "label": f"labels/{patient.name}.nii.gz"}


def write_patient(folder: Path, patient: Patient, size: int, slices: int, as_dicom: bool) -> bool:
    """Make one patient's files unless they are there; returns whether anything was made."""
    files = {key: folder / path for key, path in paths(patient).items()}
    series = folder / "dicom" / patient.name
    lacking = [series / name for name in _slice_names(slices)] if as_dicom else []
    if all(path.exists() for path in (*files.values(), *lacking)):
        return False
    scan = make_scan(patient, size, slices)
    write_bytes(files["image"], encode_nifti(scan.stored, scan.affine, scan.site.stored_from))
    write_bytes(files["label"], encode_nifti(scan.label, scan.affine))
    if as_dicom:
        for name, content in zip(_slice_names(slices), encode_slices(scan), strict=True):
            write_bytes(series / name, content)
    return True


def _slice_names(slices: int) -> list[str]:
    return [f"{number + 1:04d}.dcm" for number in range(slices)]


def encode_nifti(
    values: npt.NDArray[np.int16] | npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], intercept: float = 0.0
) -> bytes:
    """A gzipped NIfTI whose bytes depend on nothing else."""
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_slope_inter(1.0, intercept)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def write_site(folder: Path, everyone: list[Patient], as_dicom: bool) -> None:
    """The site's datalist; with `as_dicom` the test patients' items name their series too."""
    number = everyone[0].site
    entries = {
        name: [
            {
                **paths(patient),
                **({"dicom": f"dicom/{patient.name}"} if as_dicom and name == "test" else {}),
                "patient": patient.patient_id,
            }
            for patient in group
        ]
        for name, group in sections(everyone).items()
    }
    description = f"{NOTICE} {site_name(number)}."
    write_json(folder / "datalist.json", {"description": description, "classes": list(CLASSES), **entries})


def write_page(folder: Path, settings: dict[str, object], sites: dict[str, object]) -> None:
    """What the folder is, written first: an interrupted run is recognised and finished by the next."""
    write_json(folder / _PAGE, {"description": NOTICE, "settings": settings, "sites": sites})


def claim_folder(folder: Path, settings: dict[str, object]) -> None:
    """Refuse a folder that holds something else, or volumes of other settings."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file; name a new or empty folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        found = json.loads((folder / _PAGE).read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--output_dir {folder} holds other files; name a new or empty folder.") from None
    if found != settings:
        changed = sorted(key for key in settings if found.get(key) != settings[key]) or ["settings"]
        raise UserError(f"--output_dir {folder} holds volumes of other {', '.join(changed)}; name another folder.")
