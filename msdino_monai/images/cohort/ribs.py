"""Ribs as bands y(x), so that each half is drawn in one window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msdino_monai.images.cohort.anatomy import Patient, Posture
from msdino_monai.images.cohort.primitives import Array, Grid, root, smoothstep

CORTEX, MARROW = 0.032, 0.0085  # attenuation per mm, beyond soft tissue
_HALF_HEIGHT, _HALF_DEPTH, _SHELL = 6.2, 3.6, 1.1

# Beyond this share of its reach a rib turns to the front.
_TURN = 0.88
_ANGLE = float(np.arcsin(_TURN))

_DROP = (16.0, 25.0, 31.0, 36.0, 40.0, 43.0, 46.0, 48.0, 50.0, 48.0, 40.0, 26.0)  # spine to flank
_FRONT_DROP = (22.0, 34.0, 46.0, 55.0, 62.0, 66.0, 66.0, 62.0, 52.0)  # flank to cartilage
_FRONT_END = (0.30, 0.28, 0.31, 0.36, 0.42, 0.49, 0.57, 0.66, 0.76)  # of the half width


@dataclass(frozen=True)
class HalfRib:
    """The rear or front half of a rib: from `inner` to `outer`, given as |x| over the flank's distance."""

    side: float
    top: float  # height at the spine
    flank: float  # height where rear and front meet
    fall: float  # from the flank to the cartilage; 0 for a rear half
    reach: float
    shift: float  # of the middle, by turning
    inner: float
    outer: float = 1.0
    size: float = 1.0

    def height(self, u: Array) -> Array:
        """y at u = |x| / reach: a curve on the chest wall seen from the front, upright at the flank."""
        c = root(1.0 - u * u)
        if self.fall:
            return np.asarray(self.flank + self.fall * c * (0.72 + 0.28 * c))
        return np.asarray(self.top + (self.flank - self.top) * (0.28 * u + 0.72 * (1.0 - c)) - 5.0 * u * (1.0 - u))

    def add_to(self, bone: Array, grid: Grid) -> None:
        """Add its attenuation: a cortical shell round marrow, seen through obliquely towards the flank."""
        edge = self.reach + abs(self.shift)
        low, high = min(self.top, self.flank) - 12.0, max(self.flank + self.fall, self.flank) + 14.0
        rows, columns = grid.window(*((-edge, -8.0) if self.side < 0 else (8.0, edge)), low, high)
        u, y = self._follow(grid, columns)
        kept = np.flatnonzero((u > self.inner - 0.03) & (u < min(self.outer, _TURN + 0.07)))
        if kept.size < 2 or rows.stop <= rows.start:
            return
        columns = slice(columns.start + int(kept[0]), columns.start + int(kept[-1]) + 1)
        u, y = u[kept[0] : kept[-1] + 1], y[kept[0] : kept[-1] + 1]
        tall = _HALF_HEIGHT * self.size * np.sqrt(1.0 + (np.gradient(y) / grid.spacing) ** 2)
        fade = smoothstep(u, self.inner - 0.03, self.inner + 0.04)
        if not self.flanked:
            fade = fade * (1.0 - smoothstep(u, self.outer - 0.05, self.outer))
        density = _density((grid.y[rows] - y) / tall, self.size * fade / root(1.0 - u * u))
        if self.flanked:
            density *= 1.0 - self.beyond_turn(grid.x[rows, columns], grid.y[rows])
        bone[rows, columns] += density

    @property
    def flanked(self) -> bool:
        """Whether it is long enough to reach the flank."""
        return self.outer > _TURN

    def beyond_turn(self, x: Array, y: Array) -> Array:
        """0 before the line across the rib where it turns to the flank, 1 after it."""
        (x0, y0), (x1, y1) = (self.place(np.array(angle)) for angle in (_ANGLE - 0.01, _ANGLE + 0.01))
        length = np.hypot(x1 - x0, y1 - y0)
        return smoothstep(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, -1.2, 1.2)

    def place(self, angle: Array) -> tuple[Array, Array]:
        """Where the rib is at an angle round the chest, from 0 at the spine to a quarter turn at the flank."""
        u, c = np.sin(angle), np.maximum(np.cos(angle), 0.0)
        return np.asarray(self.side * self.reach * u + self.shift * c), self.height(u)

    def _follow(self, grid: Grid, columns: slice) -> tuple[Array, Array]:
        """u and y of the band in each column; lean and turn depend on the result, so it is sought twice."""
        plain = grid.left + grid.spacing * (np.arange(columns.start, columns.stop) + 0.5)
        y, c = np.full(plain.shape, self.flank), np.full(plain.shape, 0.5)
        u = y
        for _ in range(3):
            u = self.side * (plain + grid.lean * y - self.shift * c) / self.reach
            c = root(1.0 - u * u)
            y = self.height(np.clip(u, 0.0, 1.0))
        return u, y


def add_flank(bone: Array, grid: Grid, rear: HalfRib, front: HalfRib) -> None:
    """The rib's turn from rear to front: upright when seen from the front, hence a band x(y)."""
    angle = np.linspace(_ANGLE - 0.25, 0.5 * np.pi, 12)
    parts = [rear.place(angle), front.place(angle[::-1][1:])]
    x, y = (np.concatenate(axis) for axis in zip(*parts, strict=True))
    c = np.concatenate([np.cos(angle), np.cos(angle[::-1][1:])])
    rows, columns = grid.window(float(x.min()) - 9.0, float(x.max()) + 9.0, float(y.min()), float(y.max()))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    height, order = grid.y[rows], np.argsort(y, kind="stable")
    middle, c = (np.interp(height, y[order], line[order]) for line in (x, c))
    slope = np.gradient(middle[:, 0])[:, None] / grid.spacing if height.size > 1 else 0.0 * height
    wide = _HALF_DEPTH + (_HALF_HEIGHT - _HALF_DEPTH) * np.minimum(c / np.cos(_ANGLE), 1.0)
    wide = wide * front.size * np.sqrt(1.0 + np.clip(slope, -2.5, 2.5) ** 2)
    window = grid.x[rows, columns]
    density = _density((window - middle) / wide, front.size / np.maximum(c, 0.34))
    bone[rows, columns] += density * rear.beyond_turn(window, height) * front.beyond_turn(window, height)


def _density(v: Array, thickness: Array) -> Array:
    """Attenuation across a hollow ellipse, v from -1 to 1, in units of a rib's depth."""
    v = v * v
    grow = _HALF_HEIGHT / (_HALF_HEIGHT - _SHELL)
    outer, inner = root(1.0 - v), root(1.0 - v * grow**2)
    return np.asarray(
        outer * (2.0 * _HALF_DEPTH * CORTEX * thickness)
        - inner * (2.0 * (_HALF_DEPTH - _SHELL) * (CORTEX - MARROW) * thickness)
    )


def rib_height(patient: Patient, rib: int) -> float:
    """Height of a rib's head at the spine; 0 is the first."""
    return -11.0 + patient.rib_pitch * rib * (0.94 + 0.012 * rib)


def add_ribs(bone: Array, grid: Grid, patient: Patient, posture: Posture) -> None:
    """All twelve pairs."""
    for rib, drop in enumerate(_DROP):
        top = rib_height(patient, rib)
        flank = top + patient.rib_drop * drop
        reach = float(patient.width(np.array([flank]))[0]) + 2.5
        reach = max(reach, patient.half_width * (0.40, 0.60, 0.0)[min(rib, 2)])
        shift = float(patient.depth(np.array([flank]))[0]) * posture.turn
        outer = {10: 0.85, 11: 0.62}.get(rib, 1.0)
        for side in (-1.0, 1.0):
            rear = HalfRib(side, top, flank, 0.0, reach, -shift, 16.0 / reach, outer, 0.8 if rib == 0 else 1.0)
            rear.add_to(bone, grid)
            if rib < len(_FRONT_DROP):
                inner = min(max(_FRONT_END[rib] * patient.half_width, 22.0) / reach, 0.8)
                front = HalfRib(
                    side,
                    top,
                    flank,
                    patient.rib_drop * _FRONT_DROP[rib],
                    reach,
                    shift,
                    inner,
                    size=0.8 if rib == 0 else 1.05,
                )
                front.add_to(bone, grid)
                add_flank(bone, grid, rear, front)
