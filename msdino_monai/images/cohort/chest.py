"""One patient on one visit as a map of attenuation, with the truth about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.anatomy import Patient, Posture
from msdino_monai.images.cohort.findings import draw_disease
from msdino_monai.images.cohort.primitives import Array, Grid, smoothstep
from msdino_monai.images.cohort.skeleton import build_skeleton
from msdino_monai.images.cohort.smooth import cloud
from msdino_monai.images.cohort.thorax import build_thorax
from msdino_monai.images.cohort.vessels import pulmonary_vessels

SOFT = 0.0182  # attenuation of soft tissue per mm, at some 110 kV


@dataclass(frozen=True)
class Chest:
    """What the X-rays meet, and where lungs and lesions are."""

    attenuation: Array
    lungs: npt.NDArray[np.uint8]
    lesions: npt.NDArray[np.uint8]


def build_chest(
    grid: Grid,
    patient: Patient,
    posture: Posture,
    findings: Collection[str],
    strengths: dict[str, float],
    rng_of: Callable[[str], np.random.Generator],
) -> Chest:
    """Sum the line integrals of body, lungs, bones and findings."""
    patient = dataclasses.replace(patient, dome=patient.dome + posture.breath)
    thorax = build_thorax(grid, patient, posture)
    disease = draw_disease(thorax, findings, strengths, rng_of)
    vessels = pulmonary_vessels(thorax, rng_of("vessels"))
    texture = rng_of("texture")
    mottle = 0.03 * cloud(texture, grid, 9.0) + 0.04 * cloud(texture, grid, 4.0) + 0.04 * cloud(texture, grid, 2.2)
    # Blood sinks: the bases are denser than the apices of someone who stands.
    density = patient.lung_density * (0.92 + 0.2 * smoothstep(grid.y, 20.0, 230.0)) * (1.0 + mottle)
    air = (1.0 - disease.fill) * ~disease.escaped
    tissue = density * air + SOFT * disease.fill * ~disease.escaped
    vessels = np.minimum(1.2 * vessels, 0.8 * thorax.lung) * air
    solid = np.maximum(thorax.body - thorax.lung - thorax.airway, 0.0)
    attenuation = SOFT * (solid + disease.extra) + tissue * thorax.lung + (SOFT - patient.lung_density) * vessels
    bones = build_skeleton(grid, patient, posture) * (thorax.body > 0.0)
    attenuation = np.maximum(attenuation, 0.0) + bones
    return Chest(attenuation, thorax.lungs, disease.lesions)
