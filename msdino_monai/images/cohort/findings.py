"""Diseases drawn into a healthy chest, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.primitives import Array, Mask, smoothstep
from msdino_monai.images.cohort.smooth import cloud
from msdino_monai.images.cohort.thorax import LEFT_LUNG, RIGHT_LUNG, Thorax
from msdino_monai.images.cohort.vessels import bronchi

FINDINGS = ("bilateral_opacities", "consolidation", "effusion", "cardiomegaly", "pneumothorax", "nodule")


@dataclass
class Disease:
    """What findings do to the lungs, as maps on the grid."""

    fill: Array  # share of the lung's air replaced by fluid, 0 to 1
    extra: Array  # soft tissue or fluid in mm, beyond the fill
    escaped: Mask  # free air: a pneumothorax, without vessels or texture
    lesions: npt.NDArray[np.uint8]  # 0, or 1 + the finding's index

    def add(self, fill: Array) -> None:
        """Fluid in what air is left."""
        self.fill += (1.0 - self.fill) * np.clip(fill, 0.0, 1.0)


def draw_disease(
    thorax: Thorax, findings: Collection[str], strengths: dict[str, float], rng_of: Callable[[str], np.random.Generator]
) -> Disease:
    """Draw the findings, strengths from 0 (subtle) to 1 (obvious); each has its own random stream."""
    shape = thorax.grid.shape
    disease = Disease(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.uint8))
    sides = _sides(findings, rng_of("sides"))
    masks = {}
    for name, draw in _DRAWN.items():
        if name in findings:
            masks[name] = draw(thorax, disease, sides[name], strengths[name], rng_of(name))
    # Smaller lesions are painted last, so that none is lost under a larger one.
    for name in sorted(masks, key=lambda name: -int(masks[name].sum())):
        disease.lesions[masks[name]] = 1 + FINDINGS.index(name)
    for name, mask in masks.items():
        index = 1 + FINDINGS.index(name)
        if not (disease.lesions == index).any():
            # Several smaller ones hide it together: it takes back its upper half, though never from a nodule.
            rows = np.nonzero(mask)[0]
            back = mask & (np.arange(mask.shape[0])[:, None] <= np.median(rows))
            disease.lesions[back & (disease.lesions != 1 + FINDINGS.index("nodule"))] = index
    return disease


def _sides(findings: Collection[str], rng: np.random.Generator) -> dict[str, int]:
    """Which lung each finding is in; an effusion keeps away from a pneumothorax."""
    sides = {name: int(rng.integers(RIGHT_LUNG, LEFT_LUNG + 1)) for name in FINDINGS}
    if "effusion" in findings:
        sides["pneumothorax"] = RIGHT_LUNG + LEFT_LUNG - sides["effusion"]
    if "pneumothorax" in findings:
        other = RIGHT_LUNG + LEFT_LUNG - sides["pneumothorax"]
        sides["consolidation"] = sides["nodule"] = other
    return sides


def _frame(thorax: Thorax, side: int) -> tuple[Array, Array]:
    """Lung coordinates: 0 at the midline to 1 at the flank, and 0 at the apex to 1 at the dome."""
    sign = -1.0 if side == RIGHT_LUNG else 1.0
    return sign * thorax.grid.x / thorax.width, thorax.grid.y / thorax.dome


def _bilateral_opacities(
    thorax: Thorax, disease: Disease, side: int, strength: float, rng: np.random.Generator
) -> Mask:
    """Patchy ground glass along the walls of both lungs, mostly in the lower halves."""
    del side
    grid, rough = thorax.grid, cloud(rng, thorax.grid, 13.0) * 0.30 + cloud(rng, thorax.grid, 5.0) * 0.20
    density = np.zeros(grid.shape)
    for lung in (RIGHT_LUNG, LEFT_LUNG):
        u, v = _frame(thorax, lung)
        inside = thorax.side(lung)
        for _ in range(4 + int(5 * strength)):
            height, out = rng.uniform(0.38, 0.95), rng.uniform(0.68, 0.95)
            tall, broad = rng.uniform(0.07, 0.15), rng.uniform(0.10, 0.20)
            weight = rng.uniform(0.7, 1.0)
            bump = weight * np.maximum(1.0 - ((u - out) / broad) ** 2 - ((v - height) / tall) ** 2, -1.0)
            np.maximum(density, np.where(inside, bump, 0.0), out=density)
    shade = smoothstep(density + rough * (density > 0.0), 0.0, 1.1) * (thorax.lungs > 0)
    disease.add((0.14 + 0.30 * strength) * shade)
    return np.asarray(shade > 0.15)


def _consolidation(thorax: Thorax, disease: Disease, side: int, strength: float, rng: np.random.Generator) -> Mask:
    """A lobe filled with fluid, sharp along its fissure, its bronchi still full of air."""
    u, v = _frame(thorax, side)
    rough = 0.045 * cloud(rng, thorax.grid, 16.0) + 0.02 * cloud(rng, thorax.grid, 6.0)
    # A very large heart leaves too little of a lower lobe to be seen.
    upper = rng.random() < (0.4 if thorax.patient.heart_ratio < 0.58 else 1.0)
    tilt = rng.uniform(-0.12, 0.12)
    size = 0.65 + 0.35 * strength
    if upper:
        fissure = rng.uniform(0.46, 0.56) + tilt * (u - 0.5)
        share = smoothstep(fissure - v, 0.0, 0.012) * smoothstep(v + rough - (0.46 - 0.40 * size), 0.0, 0.16)
        share = share * smoothstep(u + rough - (0.30 - 0.2 * strength), 0.0, 0.25)
    else:
        # Beside the heart, however large: behind it the mask would be empty.
        beside = 0.7 * max(thorax.patient.heart_ratio - 0.42, 0.0)
        centre, middle = rng.uniform(0.42, 0.58) + beside, rng.uniform(0.78, 0.86)
        bump = 1.0 - ((u - centre) / (0.40 * size)) ** 2 - ((v - middle) / (0.24 * size)) ** 2
        share = smoothstep(bump + 5.0 * rough, -0.1, 0.75)
    # Lung before and behind the heart is filled as well: the heart loses its border there.
    share = share * smoothstep(u, 0.02, 0.2) * (1.0 + 2.2 * rough)
    amount = (0.24 + 0.40 * strength) * np.clip(share, 0.0, 1.0)
    seen = share * thorax.side(side)
    region = np.asarray(seen > min(0.3, 0.5 * float(seen.max())))
    disease.add(amount)
    # A bronchogram: where a bronchus runs, the air comes back.
    disease.extra -= 0.75 * bronchi(thorax, side, region, rng) * amount
    return region


def _effusion(thorax: Thorax, disease: Disease, side: int, strength: float, rng: np.random.Generator) -> Mask:
    """Fluid that fills the costophrenic angle and climbs the wall as a meniscus."""
    u, _ = _frame(thorax, side)
    scale = thorax.patient.half_width / 140.0
    level = _angle_height(thorax, side) - (36.0 + 100.0 * strength**1.4) * scale
    climb = (12.0 + 26.0 * strength + rng.uniform(0.0, 8.0)) * scale
    surface = level + climb * (1.0 - np.exp(-(1.0 - np.clip(u, 0.0, 1.0)) / 0.20))
    depth = thorax.grid.y - surface
    share = smoothstep(depth, -3.0, 16.0 + 16.0 * strength) * smoothstep(u, 0.03, 0.22)
    disease.add(0.97 * share)
    return np.asarray((share > 0.25) & thorax.side(side))


def _angle_height(thorax: Thorax, side: int) -> float:
    """y of the costophrenic angle: where the dome's summit line meets the flank."""
    sign = -1.0 if side == RIGHT_LUNG else 1.0
    return float(thorax.patient.dome_line(np.array([sign * 0.97 * thorax.patient.half_width]))[0])


def _pneumothorax(thorax: Thorax, disease: Disease, side: int, strength: float, rng: np.random.Generator) -> Mask:
    """Air between lung and wall, widest at the apex, bounded by the fine line of the pleura."""
    grid = thorax.grid
    u, v = _frame(thorax, side)
    ripple = 0.6 * cloud(rng, grid, 30.0)
    gap = np.maximum(thorax.width * (1.0 - u), 0.01)
    roof = np.maximum(grid.y - 4.0, 0.01)
    wall = np.asarray(
        1.0 / np.sqrt(1.0 / gap**2 + 1.0 / (0.55 * roof) ** 2)
    )  # distance from wall and apex, corner rounded
    reach = 13.0 + 42.0 * strength
    edge = reach * (1.0 - (0.72 - 0.5 * strength) * smoothstep(v, 0.15, 0.95)) + ripple
    inside = thorax.side(side)
    beyond = inside & (wall < edge)
    disease.escaped |= beyond
    line = np.exp(-(((wall - edge - 0.7) / 0.8) ** 2)) * inside
    disease.extra += (5.0 + 3.5 * strength) * line
    disease.add(np.where(inside & ~beyond, 0.10 * strength, 0.0))
    return beyond


def _nodule(thorax: Thorax, disease: Disease, side: int, strength: float, rng: np.random.Generator) -> Mask:
    """A round, slightly lobed lump well inside the lung."""
    grid = thorax.grid
    radius = 5.0 + 10.0 * strength
    u, v = _frame(thorax, side)
    deep = thorax.side(side) & (thorax.lung > 70.0) & (u > 0.38) & (u < 0.84) & (v > 0.16) & (v < 0.88)
    rows, columns = np.nonzero(deep)
    place = rng.random()
    if rows.size == 0:  # a field of view that cuts the lung off: take its middle
        rows, columns = np.nonzero(thorax.side(side))
    k = min(int(place * rows.size), rows.size - 1)
    dx, dy = grid.x - grid.x[rows[k], columns[k]], grid.y - grid.y[rows[k], 0]
    turn = np.arctan2(dy, dx)
    lobes = 1.0 + 0.06 * np.cos(3.0 * turn + rng.uniform(0, 6.3)) + 0.04 * np.cos(5.0 * turn + rng.uniform(0, 6.3))
    level = 1.0 - (dx * dx + dy * dy) / (radius * lobes) ** 2
    disease.extra += 2.0 * radius * 1.05 * np.sqrt(np.maximum(level, 0.0))
    return np.asarray((level > 0.0) & thorax.side(side))


_Draw = Callable[[Thorax, Disease, int, float, np.random.Generator], Mask]
_DRAWN: dict[str, _Draw] = {
    "bilateral_opacities": _bilateral_opacities,
    "consolidation": _consolidation,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "nodule": _nodule,
}
