"""`python -m msdino_monai cohort`: a synthetic cohort of several hospitals."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from msdino_monai.errors import UserError
from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.folder import NOTICE, claim_folder, datalist, write_json, write_visit
from msdino_monai.images.cohort.plan import Visit, visits
from msdino_monai.images.cohort.scanner import MAX_SITES, site_name, site_style


def write_cohort(
    output_dir: str, sites: int = 3, patients_per_site: int = 200, seed: int = 0, image_size: int = 512
) -> None:
    """Write SYNTHETIC chest radiographs of several hospitals: DICOM images, masks and a datalist per site.

    The same seed gives the same bytes. Running it again finishes what is missing. `image_size` is the longer side in
    pixels. Each site has its own scanner and prevalences; docs/cohort.md describes them.
    """
    settings: dict[str, object] = {
        "sites": _whole("sites", sites, 1, MAX_SITES),
        "patients_per_site": _whole("patients_per_site", patients_per_site, 1, 9999),
        "seed": _whole("seed", seed, 0, 2**32 - 1),
        "image_size": _whole("image_size", image_size, 64, 4096),
    }
    if not str(output_dir).strip() or str(output_dir) in ("True", "False"):
        # A flag without a value arrives as True.
        raise UserError("--output_dir is empty; name a new or empty folder.")
    folder = Path(str(output_dir))
    claim_folder(folder, settings)
    plan = [visits(seed, site, patients_per_site) for site in range(sites)]
    try:
        made = _write(folder, plan, settings, image_size)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; make room or name another folder.") from error
    total = sum(map(len, plan))
    print(f"SYNTHETIC cohort in {folder}: {total} radiographs of {sites} sites, {made} made now.")


def _write(folder: Path, plan: list[list[Visit]], settings: dict[str, object], image_size: int) -> int:
    # The settings come first: an interrupted run is recognised and finished by the next.
    write_json(folder / "cohort.json", {"description": NOTICE, "settings": settings, "sites": _describe(plan)})
    for site, site_visits in enumerate(plan):
        write_json(folder / site_name(site) / "datalist.json", datalist(site_visits))
    every = [visit for site_visits in plan for visit in site_visits]
    bar = tqdm(every, desc="cohort", unit="image", disable=not sys.stderr.isatty())
    return sum(write_visit(folder / site_name(visit.site), visit, image_size) for visit in bar)


def _describe(plan: list[list[Visit]]) -> dict[str, object]:
    """Per site: how many, of what, from which machine."""
    pages: dict[str, object] = {}
    for site, site_visits in enumerate(plan):
        first = [visit for visit in site_visits if visit.visit == 0]
        style = site_style(site)
        pages[site_name(site)] = {
            "radiographs": len(site_visits),
            "patients": len(first),
            "patients_with": {name: sum(name in visit.findings for visit in first) for name in FINDINGS},
            "patients_without_finding": sum(not visit.findings for visit in first),
            "model": style.model,
            "photometric_interpretation": style.photometric,
            "bits_stored": style.bits,
        }
    return pages


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"--{name} must be a whole number from {low} to {high}, got {value!r}.")
    return value
