"""One synthetic radiograph from its place in the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.anatomy import Patient, Posture, draw_patient, draw_posture
from msdino_monai.images.cohort.chest import build_chest
from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.plan import Visit
from msdino_monai.images.cohort.primitives import Grid
from msdino_monai.images.cohort.scanner import Exposure, Style, expose, site_style


@dataclass(frozen=True)
class Radiograph:
    """Pixels, masks and the person behind them."""

    visit: Visit
    style: Style
    patient: Patient
    exposure: Exposure
    lungs: npt.NDArray[np.uint8]
    lesions: npt.NDArray[np.uint8]
    pixel_spacing: float


def make_radiograph(visit: Visit, image_size: int) -> Radiograph:
    """Draw the patient, the stance and the findings, and expose them on the site's machine."""
    style = site_style(visit.site)
    patient = draw_patient(visit.rng("patient"), "cardiomegaly" in visit.findings)
    posture = draw_posture(visit.rng("posture", every_visit=True))
    grid = frame(style, patient, posture, image_size)
    severity, change = visit.rng("severity").random(len(FINDINGS)), visit.rng("change", every_visit=True)
    strengths = np.clip(severity + change.uniform(-0.12, 0.12, len(FINDINGS)), 0.0, 1.0)
    chest = build_chest(
        grid, patient, posture, visit.findings, dict(zip(FINDINGS, map(float, strengths), strict=True)), visit.rng
    )
    exposure = expose(chest.attenuation, grid, style, posture.exposure, visit.rng("noise", every_visit=True))
    return Radiograph(visit, style, patient, exposure, chest.lungs, chest.lesions, style.pixel_spacing(image_size))


def frame(style: Style, patient: Patient, posture: Posture, image_size: int) -> Grid:
    """The detector, seen in the patient's middle plane, centred on the chest."""
    rows, columns = style.matrix(image_size)
    spacing = style.pixel_spacing(image_size) / style.magnification
    centre = 0.5 * (patient.dome + 34.0) + 2.0
    left = posture.shift_x - 0.5 * spacing * columns - posture.lean * centre
    top = centre + posture.shift_y - 0.5 * spacing * rows
    return Grid(rows, columns, spacing, left, top, posture.lean)
