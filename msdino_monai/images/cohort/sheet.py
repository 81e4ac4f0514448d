"""A labelled page of examples: findings down, sites across."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.plan import Visit
from msdino_monai.images.cohort.radiograph import Radiograph, make_radiograph
from msdino_monai.images.cohort.scanner import site_name

_ROWS = ("normal", *FINDINGS)
_MARGIN, _HEADER, _GAP = 138, 44, 4


def contact_sheet(path: str | Path, sites: int = 3, seed: int = 0, cell: int = 200, per_site: int = 2) -> None:
    """Draw one page of examples, each with one finding or none, as a viewer would show them."""
    columns = sites * per_site
    width, height = _MARGIN + columns * (cell + _GAP), _HEADER + len(_ROWS) * (cell + _GAP)
    page = Image.new("L", (width, height), 24)
    pen = ImageDraw.Draw(page)
    pen.text((8, 8), "SYNTHETIC", fill=255)
    pen.text((8, 24), "not for clinical use", fill=170)
    for column in range(columns):
        left = _MARGIN + column * (cell + _GAP)
        pen.text((left + 4, 16), f"{site_name(column // per_site)} (SYNTHETIC)", fill=255)
        for row, finding in enumerate(_ROWS):
            top = _HEADER + row * (cell + _GAP)
            pen.text((8, top + cell // 2), finding.replace("_", " "), fill=255)
            visit = Visit(seed, column // per_site, 100 * row + column, 0, () if row == 0 else (finding,))
            picture = show(make_radiograph(visit, 2 * cell))
            picture.thumbnail((cell, cell), Image.Resampling.BOX)
            page.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))
    # 64 greys are all a page this small can show, and halve its size.
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    page.point(lambda value: value & 0xFC).save(path, optimize=True)


def show(radiograph: Radiograph) -> Image.Image:
    """The radiograph under its own window, air dark."""
    exposure = radiograph.exposure
    tone = (exposure.stored - exposure.window_centre) / exposure.window_width + 0.5
    if radiograph.style.photometric == "MONOCHROME1":
        tone = 1.0 - tone
    return Image.fromarray(np.rint(255.0 * np.clip(tone, 0.0, 1.0)).astype(np.uint8))
