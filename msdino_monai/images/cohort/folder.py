"""The cohort's files: images, masks, datalists, and the page that says how they were made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.images.cohort.dicom import encode_radiograph
from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.plan import SPLITS, Visit, split_patients
from msdino_monai.images.cohort.radiograph import make_radiograph
from msdino_monai.images.cohort.scanner import site_name

NOTICE = "SYNTHETIC chest radiographs, drawn by msdino_monai. No patients. Not for clinical use."
_COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
)  # fmt: skip


def paths(visit: Visit) -> dict[str, str]:
    """A radiograph's files, relative to its site's folder."""
    return {
        "image": f"images/{visit.name}.dcm",
        "lungs": f"masks/{visit.name}_lungs.png",
        "lesions": f"masks/{visit.name}_lesions.png",
    }


def write_visit(folder: Path, visit: Visit, image_size: int) -> bool:
    """Make one radiograph and its masks unless they are there; returns whether anything was made."""
    files = {key: folder / path for key, path in paths(visit).items()}
    if all(path.exists() for path in files.values()):
        return False
    radiograph = make_radiograph(visit, image_size)
    write_bytes(files["image"], encode_radiograph(radiograph))
    write_bytes(files["lungs"], encode_mask(radiograph.lungs))
    write_bytes(files["lesions"], encode_mask(radiograph.lesions))
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write under another name first: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def write_json(path: Path, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def encode_mask(mask: npt.NDArray[np.uint8]) -> bytes:
    """A palette PNG: the pixel's value is the class, and viewers show it in colour."""
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette([value for colour in _COLOURS for value in colour])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def datalist(visits: list[Visit]) -> dict[str, object]:
    """A site's MONAI datalist; all of a patient's radiographs are in one split."""
    site = visits[0].site
    patients = 1 + max(visit.patient for visit in visits)
    split = split_patients(visits[0].seed, site, patients)
    entries: dict[str, list[dict[str, object]]] = {name: [] for name in SPLITS}
    for visit in visits:
        entry = paths(visit)
        image = entry.pop("image")
        entries[split[visit.patient]].append(
            {"image": image, "label": visit.label, **entry, "patient": visit.patient_id}
        )
    return {"description": f"{NOTICE} {site_name(site)}.", "labels": list(FINDINGS), **entries}


def claim_folder(folder: Path, settings: dict[str, object]) -> None:
    """Refuse a folder that holds something else, or a cohort of other settings."""
    page = folder / "cohort.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file; name a new or empty folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        found = json.loads(page.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--output_dir {folder} holds other files; name a new or empty folder.") from None
    if found != settings:
        changed = sorted(key for key in settings if found.get(key) != settings[key]) or ["settings"]
        raise UserError(f"--output_dir {folder} holds a cohort of other {', '.join(changed)}; name another folder.")
