"""A labelled page of examples: sites down, patients across, tumours outlined."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from msdino_monai.images.abdomen.plan import patients
from msdino_monai.images.abdomen.scan import Scan, make_scan
from msdino_monai.images.abdomen.site import site
from msdino_monai.images.cohort.scanner import site_name

_MARGIN, _HEADER, _GAP = 110, 30, 4
_COLOURS = {1: (86, 180, 233), 2: (230, 159, 0)}
_WINDOW = (-160.0, 240.0)


def volume_sheet(
    path: str | Path, sites: int = 3, seed: int = 0, size: int = 96, slices: int = 24, columns: int = 4
) -> None:
    """Draw one page: of the first patients of each site the slice with most tumour, or most kidney."""
    cell = 2 * size
    page = Image.new("RGB", (_MARGIN + columns * (cell + _GAP), _HEADER + sites * (cell + _GAP)), (24, 24, 24))
    pen = ImageDraw.Draw(page)
    pen.text((8, 8), "SYNTHETIC, not for clinical use: kidney (blue) and tumour (orange) outlined", fill=(255,) * 3)
    for row in range(sites):
        top = _HEADER + row * (cell + _GAP)
        for column, patient in enumerate(patients(seed, row, columns)):
            scan = make_scan(patient, size, slices)
            left = _MARGIN + column * (cell + _GAP)
            page.paste(show(scan).resize((cell, cell), Image.Resampling.NEAREST), (left, top))
            pen.text((left + 4, top + cell - 14), scan.phase, fill=(170,) * 3)
        about = f"{site_name(row)}\n(SYNTHETIC)\n{site(row).slice_spacing:g} mm"
        pen.multiline_text((8, top + 8), about, fill=(255,) * 3)
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(96).save(place, optimize=True)


def show(scan: Scan) -> Image.Image:
    """One slice as a radiologist sees it, from the feet, with outlines."""
    turn = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(scan.affine), turn)
    values, label = (nibabel.orientations.apply_orientation(each, turn) for each in (scan.hounsfield, scan.label))
    counts = (label == 2).sum((0, 1)) * label[..., 0].size + (label > 0).sum((0, 1))
    middle = int(counts.argmax())
    tone = (values[..., middle].T - _WINDOW[0]) / (_WINDOW[1] - _WINDOW[0])
    grey = np.rint(255.0 * np.clip(tone, 0.0, 1.0)).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for number, colour in _COLOURS.items():
        picture[_outline(np.equal(label[..., middle].T, number))] = colour
    return Image.fromarray(picture)


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis)
    return np.asarray(mask & ~inner)
