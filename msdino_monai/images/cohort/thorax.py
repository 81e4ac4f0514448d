"""The soft parts of a chest: lungs, mediastinum, diaphragm and the body around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.anatomy import Patient, Posture
from msdino_monai.images.cohort.primitives import (
    Array,
    Ellipsoid,
    Grid,
    Mask,
    curve_tube,
    root,
    smoothstep,
    union,
)

RIGHT_LUNG, LEFT_LUNG = 1, 2


@dataclass(frozen=True)
class Thorax:
    """Thickness maps in mm of a healthy chest, and where its lungs are seen."""

    grid: Grid
    patient: Patient
    posture: Posture
    body: Array  # everything inside the skin
    lung: Array  # lung, both sides
    airway: Array  # trachea, main bronchi, gas in the stomach
    width: Array  # (H, 1) half the inner width of the rib cage
    dome: Array  # (H, W) height of the diaphragm below each point
    lungs: npt.NDArray[np.uint8]  # 0, RIGHT_LUNG or LEFT_LUNG

    def side(self, lung: int) -> Mask:
        return np.asarray(self.lungs == lung)


def build_thorax(grid: Grid, patient: Patient, posture: Posture) -> Thorax:
    """Project the soft parts."""
    width, dome = patient.width(grid.y), patient.dome_line(grid.x)
    cavity = _cavity(grid, patient, width)
    space = _above_diaphragm(grid, cavity, dome)
    mediastinum = _heart_and_aorta(grid, patient, posture)
    # Below the summit line lung is left only behind the dome, where no heart takes its place.
    above = 1.0 - smoothstep(grid.y - dome, 0.0, 14.0)
    lung = np.maximum(space - np.maximum(_core(grid, cavity), above * mediastinum), 0.0)
    seen = (grid.y < dome) & (lung > 0.0) & ~_silhouette(grid, patient, posture) & (np.abs(grid.x) < width)
    lungs = np.where(seen, np.where(grid.x < 0, RIGHT_LUNG, LEFT_LUNG), 0).astype(np.uint8)
    body = _body(grid, patient, posture) + _breasts(grid, patient)
    airway = _airway(grid, patient, posture) + _stomach(grid, patient)
    return Thorax(grid, patient, posture, body, lung, airway, width, dome, lungs)


def _cavity(grid: Grid, patient: Patient, width: Array) -> Array:
    """Half the depth of the rib cage's inside along each ray."""
    u = (grid.x / width) ** 2
    return np.asarray(patient.depth(grid.y) * root(1.0 - u * (0.45 + 0.55 * u)))


def _above_diaphragm(grid: Grid, half: Array, dome: Array) -> Array:
    """The part of each chord above the diaphragm, whose summit lies in front and which falls to both sides of it."""
    summit, bend = 12.0, 0.0062
    below = root((grid.y - dome) / bend)
    rear = np.maximum(np.minimum(half, summit - below) + half, 0.0)
    front = np.maximum(half - np.maximum(summit + below, -half), 0.0)
    # Towards the spine the diaphragm's crura leave no room for lung.
    crura = (1.0 - smoothstep(np.abs(grid.x), 24.0, 76.0)) * smoothstep(grid.y - dome, 0.0, 8.0)
    return np.asarray(np.where(grid.y < dome, 2.0 * half, (rear + front) * (1.0 - crura)))


def _waist(y: Array) -> Array:
    """Half the width of the upper mediastinum; it flares into the neck, which rounds the apices."""
    return np.asarray(23.0 + 31.0 * np.exp(-np.clip(y, -20.0, None) / 12.0) + 5.0 * smoothstep(y, 60, 160))


def _vessels(patient: Patient, posture: Posture) -> list[Ellipsoid]:
    """The aortic arch and the ascending aorta."""
    size, knob = patient.aorta, 0.34 * patient.dome
    lift = 15.0 * posture.turn
    return [
        Ellipsoid(15.0 + lift, knob, 20.0 * size, 19.0 * size, 26.0 * size),
        Ellipsoid(-9.0 + 2 * lift, knob + 34.0, 23.0 * size, 46.0, 24.0 * size),
    ]


def _turned(parts: list[Ellipsoid], shift: float) -> list[Ellipsoid]:
    return [Ellipsoid(p.x + shift, p.y, p.across, p.along, p.depth, p.angle) for p in parts]


def _heart(patient: Patient, posture: Posture) -> list[Ellipsoid]:
    return _turned(patient.heart(), 25.0 * posture.turn)


def _heart_and_aorta(grid: Grid, patient: Patient, posture: Posture) -> Array:
    """Thickness of the heart and the great vessels."""
    chord = union(grid, _heart(patient, posture) + _vessels(patient, posture))
    knob = 0.34 * patient.dome
    descending = [(22.0, knob), (23.0, knob + 60.0), (17.0, knob + 130.0), (8.0, knob + 190.0)]
    return chord + 0.6 * curve_tube(grid, descending, (12.0 * patient.aorta, 11.0 * patient.aorta))


def _core(grid: Grid, half: Array) -> Array:
    """The rest of the mediastinum: a band from the neck down to the diaphragm, in front of the spine."""
    chord = np.zeros(grid.shape)
    box = grid.window(-70.0, 70.0, -80.0, 420.0)
    x, y = grid.x[box], grid.y[box[0]]
    u = (x / _waist(y)) ** 2
    depth = 0.56 + 0.28 * smoothstep(y, 150.0, 240.0)
    chord[box] = 2.0 * half[box] * root(1.0 - u) * (depth + 0.12 * (1.0 - u))
    return chord


def _silhouette(grid: Grid, patient: Patient, posture: Posture) -> Mask:
    """Where heart, great vessels or the mediastinum hide the lung."""
    box = grid.window(-60.0, 60.0, -80.0, 320.0)
    hidden = np.zeros(grid.shape, dtype=bool)
    hidden[box] = np.abs(grid.x[box]) < _waist(grid.y[box[0]])
    for part in _heart(patient, posture) + _vessels(patient, posture):
        box = part.box(grid)
        hidden[box] |= part.level(grid.x[box], grid.y[box[0]]) > 0.0
    return hidden


def _body(grid: Grid, patient: Patient, posture: Posture) -> Array:
    """Neck, shoulders and trunk as one solid, and the upper arms."""
    y = grid.y - posture.shoulders * (1.0 - smoothstep(grid.y, 20, 120))
    trunk = patient.half_width + patient.wall
    half_width = 57.0 + (trunk - 57.0) * smoothstep(y, -95, 25) + 56.0 * np.exp(-(((y - 22.0) / 50.0) ** 2))
    half_depth = 68.0 + (patient.half_depth + 14.0 + 0.75 * patient.wall - 68.0) * smoothstep(y, -70, 110)
    u = (grid.x / half_width) ** 2
    body = 2.0 * half_depth * root(1.0 - u * (0.4 + 0.6 * u))
    for side in (-1.0, 1.0):
        arm = curve_tube(grid, [(side * (trunk + 18.0), 20.0), (side * (trunk + 100.0), 290.0)], (50.0, 40.0), 1)
        np.maximum(body, arm, out=body)
        # The pectoral and axillary fold: muscle from the arm to the rib cage.
        fold = Ellipsoid(side * 1.0 * trunk, 70.0, 40.0, 90.0, 15.0, side * 0.3)
        box = fold.box(grid)
        body[box] += 26.0 * np.maximum(fold.level(grid.x[box], grid.y[box[0]]), 0.0)
    return np.asarray(body)


def _breasts(grid: Grid, patient: Patient) -> Array:
    """Two drops on the front of the chest; their lower border is the one seen."""
    drops = np.zeros(grid.shape)
    if patient.breast == 0.0:
        return drops
    size = 0.75 + 0.25 * patient.breast
    for side in (-1.0, 1.0):
        centre, height = side * 0.6 * patient.half_width, 0.76 * patient.dome + 22.0 * patient.breast
        reach = 66.0 * size
        box = grid.window(centre - reach, centre + reach, height - 2 * reach, height + reach)
        u = (grid.x[box] - centre) / reach
        v = (grid.y[box[0]] - height) / np.where(grid.y[box[0]] < height, 1.8 * reach, 0.78 * reach)
        level = np.maximum(1.0 - u * u - v * v, 0.0)
        drops[box] += 62.0 * patient.breast * level**0.6
    return drops


def _airway(grid: Grid, patient: Patient, posture: Posture) -> Array:
    """Trachea and main bronchi."""
    carina = 0.34 * patient.dome + 26.0
    turn = 4.0 * posture.turn * 10.0
    bore = 8.2 if patient.sex == "M" else 7.2
    trachea = [(turn, -110.0), (0.6 * turn, -40.0), (-3.0, carina - 35.0), (-2.0, carina)]
    right = [(-4.0, carina - 3.0), (-14.0, carina + 14.0), (-30.0, carina + 38.0)]
    left = [(1.0, carina - 3.0), (17.0, carina + 12.0), (44.0, carina + 29.0)]
    air = curve_tube(grid, trachea, (bore, bore))
    air += curve_tube(grid, right, (0.8 * bore, 0.55 * bore), 10)
    return air + curve_tube(grid, left, (0.72 * bore, 0.5 * bore), 10)


def _stomach(grid: Grid, patient: Patient) -> Array:
    """Gas under the left dome: round above, level below because the patient stands."""
    if patient.bubble < 0.25:
        return np.zeros(grid.shape)
    centre = 0.47 * patient.half_width
    top = float(patient.dome_line(np.array([centre]))[0]) + 9.0
    radius = 17.0 + 13.0 * patient.bubble
    gas = Ellipsoid(centre, top + 0.62 * radius, radius, 0.62 * radius, 0.55 * radius).draw(grid)
    return np.asarray(gas * (grid.y < top + radius * (0.45 + 0.6 * patient.bubble)))
