"""`python -m msdino_monai volumes`: synthetic abdominal CT volumes of several hospitals."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from msdino_monai.errors import UserError
from msdino_monai.images.abdomen.folder import claim_folder, write_page, write_patient, write_site
from msdino_monai.images.abdomen.plan import Patient, patients, sections
from msdino_monai.images.abdomen.sheet import volume_sheet
from msdino_monai.images.abdomen.site import site
from msdino_monai.images.cohort.scanner import MAX_SITES, site_name


def write_volumes(
    output_dir: str,
    sites: int = 3,
    patients_per_site: int = 12,
    size: int = 96,
    slices: int = 24,
    seed: int = 0,
    as_dicom: bool = False,
    sheet: str | None = None,
) -> None:
    """Write SYNTHETIC abdominal CT volumes of several hospitals: NIfTI images, kidney and tumour labels, datalists.

    --size      voxels across a slice
    --slices    of each volume, 3 to 5 mm apart
    --as_dicom  the test patients' images as DICOM series too
    --sheet     also draw a page of examples there (.png)

    The same seed gives the same bytes. Running it again finishes what is missing. Each site has its own scanner,
    protocol and patients; docs/volumes.md describes them.
    """
    settings: dict[str, object] = {
        "sites": _whole("sites", sites, 1, MAX_SITES),
        "patients_per_site": _whole("patients_per_site", patients_per_site, 1, 9999),
        "size": _whole("size", size, 32, 512),
        "slices": _whole("slices", slices, 2, 512),
        "seed": _whole("seed", seed, 0, 2**32 - 1),
        "as_dicom": bool(as_dicom),
    }
    if not str(output_dir).strip() or str(output_dir) in ("True", "False"):
        # A flag without a value arrives as True.
        raise UserError("--output_dir is empty; name a new or empty folder.")
    if sheet is not None and Path(str(sheet)).suffix.lower() != ".png":
        raise UserError(f"--sheet must be a .png file, got {str(sheet)!r}.")
    folder = Path(str(output_dir))
    claim_folder(folder, settings)
    plan = [patients(seed, number, patients_per_site) for number in range(sites)]
    try:
        made = _write(folder, plan, settings, size, slices, bool(as_dicom))
        if sheet is not None:
            volume_sheet(sheet, sites, seed, size, slices)
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or folder}: {error.strerror}; make room there.") from error
    total = sum(map(len, plan))
    print(f"SYNTHETIC volumes in {folder}: {total} of {sites} sites, {made} made now.")


def _write(
    folder: Path, plan: list[list[Patient]], settings: dict[str, object], size: int, slices: int, as_dicom: bool
) -> int:
    write_page(folder, settings, {site_name(number): _describe(everyone) for number, everyone in enumerate(plan)})
    series: set[Patient] = set()
    for number, everyone in enumerate(plan):
        write_site(folder / site_name(number), everyone, as_dicom)
        series.update(sections(everyone)["test"] if as_dicom else [])
    bar = tqdm([p for everyone in plan for p in everyone], desc="volumes", disable=not sys.stderr.isatty())
    return sum(write_patient(folder / site_name(p.site), p, size, slices, p in series) for p in bar)


def _describe(everyone: list[Patient]) -> dict[str, object]:
    """How many, of what, from which machine."""
    machine = site(everyone[0].site)
    return {
        "patients": len(everyone),
        "patients_with_tumour": sum(patient.tumour for patient in everyone),
        "model": machine.model,
        "slice_spacing_mm": machine.slice_spacing,
        "field_mm": machine.field,
        "phases": machine.phases,
    }


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"--{name} must be a whole number from {low} to {high}, got {value!r}.")
    return value
