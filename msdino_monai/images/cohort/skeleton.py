"""Bones, as the attenuation they add to the soft tissue whose place they take."""

from __future__ import annotations

import numpy as np

from msdino_monai.images.cohort.anatomy import Patient, Posture
from msdino_monai.images.cohort.primitives import Array, Ellipsoid, Grid, curve_tube, root, smoothstep
from msdino_monai.images.cohort.ribs import CORTEX, MARROW, add_ribs, rib_height

Points = list[tuple[float, float]]


def build_skeleton(grid: Grid, patient: Patient, posture: Posture) -> Array:
    """Added attenuation of ribs, spine, shoulder girdle and sternum."""
    bone = np.zeros(grid.shape)
    add_ribs(bone, grid, patient, posture)
    _add_spine(bone, grid, patient, posture)
    for side in (-1.0, 1.0):
        bone += _clavicle(grid, patient, posture, side)
        bone += _shoulder(grid, patient, posture, side)
    return bone * patient.bone


def _pipe(grid: Grid, points: Points, radii: tuple[float, float], shell: float, steps: int = 24) -> Array:
    """A hollow bone along a curve."""
    outer = curve_tube(grid, points, radii, steps)
    inner = curve_tube(grid, points, (radii[0] - shell, radii[1] - shell), steps)
    return np.asarray(CORTEX * outer - (CORTEX - MARROW) * inner)


def _clavicle(grid: Grid, patient: Patient, posture: Posture, side: float) -> Array:
    """An S from the manubrium, rising outwards; turning the patient moves its inner end most."""
    scale = patient.half_width / 137.0
    lift, shift = posture.shoulders, 55.0 * posture.turn
    offsets = [(17.0, 39.0), (42.0, 33.0), (80.0, 16.0 + 0.5 * lift), (118.0, 6.0 + lift), (156.0, 3.0 + lift)]
    points = [(side * scale * x + shift, y) for x, y in offsets]
    return _pipe(grid, points, (7.2, 5.6), 1.5, 32)


def _shoulder(grid: Grid, patient: Patient, posture: Posture, side: float) -> Array:
    """Scapula rolled outwards, acromion and humerus."""
    base, lift = patient.half_width - 137.0, posture.shoulders

    def place(*offsets: tuple[float, float]) -> Points:
        return [(side * (base + x), y + lift) for x, y in offsets]

    bone = _pipe(grid, place((122.0, 18.0), (134.0, 62.0), (147.0, 108.0), (158.0, 138.0)), (1.9, 2.6), 0.8)
    bone += _pipe(grid, place((158.0, 138.0), (166.0, 100.0), (171.0, 66.0), (174.0, 48.0)), (3.2, 4.2), 1.1)
    bone += _pipe(grid, place((126.0, 26.0), (152.0, 14.0), (178.0, 4.0), (194.0, 10.0)), (2.6, 6.0), 1.2)
    bone += _pipe(grid, place((158.0, 34.0), (164.0, 24.0), (171.0, 27.0)), (5.5, 4.0), 1.2)
    bone += 0.055 * _blade(grid, side, base, lift)
    shaft = place((199.0, 36.0), (226.0, 120.0), (258.0, 260.0))
    bone += _pipe(grid, shaft, (11.5, 9.5), 3.0)
    (x, y), *_ = place((196.0, 34.0))
    head, marrow = Ellipsoid(x, y, 22.0, 21.0, 15.0), Ellipsoid(x, y, 21.2, 20.2, 14.3)
    return np.asarray(bone + CORTEX * head.draw(grid) - (CORTEX - MARROW) * marrow.draw(grid))


def _blade(grid: Grid, side: float, base: float, lift: float) -> Array:
    """The scapula's thin plate: 1 inside the triangle between its borders."""
    plate = np.zeros(grid.shape)
    edges = sorted((side * (base + 115.0), side * (base + 185.0)))
    box = grid.window(edges[0], edges[1], 10.0, 145.0)
    x, y = side * grid.x[box] - base, grid.y[box[0]] - lift
    inner = x - (117.0 + 0.295 * (y - 2.0))
    outer = (176.5 - 0.19 * (y - 42.0)) - x
    upper = y - (24.0 - 0.2 * (x - 122.0))
    plate[box] = smoothstep(np.minimum(np.minimum(inner, outer), upper), 0.0, 3.0)
    return plate


def _add_spine(bone: Array, grid: Grid, patient: Patient, posture: Posture) -> None:
    """Vertebral bodies with end plates, pedicles and spinous processes; the front of a body is farthest from these."""
    shift = -0.75 * patient.half_depth * posture.turn
    box = grid.window(-48.0, 48.0, -150.0, 420.0)
    x, y = grid.x[box] - shift, grid.y[box[0]]
    pitch = 0.965 * patient.rib_pitch * (1.0 + 0.0006 * np.clip(y, -150.0, 320.0))
    level = (y - rib_height(patient, 0)) / pitch + 0.5
    v = level - np.floor(level)  # 0 to 1 down one vertebra and its disc
    half = 14.5 + 0.024 * np.clip(y, -100.0, 330.0)
    u = np.abs(x) / (half * (1.0 - 0.12 * np.sin(np.pi * np.clip(v / 0.82, 0.0, 1.0))))
    body = root(1.0 - u**4) * smoothstep(v, 0.0, 0.05) * (1.0 - smoothstep(v, 0.78, 0.84))
    plates = np.exp(-(((v - 0.05) / 0.035) ** 2)) + np.exp(-(((v - 0.78) / 0.035) ** 2))
    wall = np.exp(-(((u - 0.95) / 0.05) ** 2)) * (v < 0.82)
    ring = ((np.abs(x) - 0.60 * half) / 4.6) ** 2 + ((v - 0.30) * pitch / 5.6) ** 2
    pedicle = 0.13 * np.exp(-(((ring - 1.0) / 0.5) ** 2)) + 0.05 * (ring < 1.0)
    spinous = 0.11 * root(1.0 - (x / 3.6) ** 2 - ((v - 0.74) * pitch / 7.0) ** 2)
    transverse = 0.06 * root(1.0 - ((v - 0.30) * pitch / 4.5) ** 2) * (1.0 - smoothstep(np.abs(x), 24.0, 34.0))
    fade = 0.55 + 0.45 * smoothstep(y, -60.0, 60.0)  # necks are slimmer than chests
    bone[box] += fade * (0.13 * body + 0.04 * plates * (u < 1.0) + 0.05 * wall + 0.7 * pedicle + spinous + transverse)
