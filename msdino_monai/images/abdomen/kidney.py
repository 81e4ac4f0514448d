"""A kidney with cortex, medulla and sinus, and what may grow in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msdino_monai.images.abdomen.shape import Array, Ellipsoid, Points, cloud

_FAT, _WATER = -95.0, 6.0


@dataclass(frozen=True)
class Kidney:
    """Where a kidney lies and what grows in it; `side` is -1 for the patient's right one."""

    side: int
    solid: Ellipsoid
    tumour: Ellipsoid | None
    cyst: Ellipsoid | None


@dataclass(frozen=True)
class Organ:
    """What to paint, in order, and depths inside what is labelled."""

    layers: list[tuple[Array, Array | float]]
    kidney: Array
    tumour: Array | None


def place_kidney(rng: np.random.Generator, side: int, half: tuple[float, float], tumour: bool, cysts: float) -> Kidney:
    """The right kidney lies a little lower; both lean outwards at the foot."""
    size = float(np.clip(rng.normal(1.0, 0.09), 0.75, 1.25))
    middle = (
        side * (0.46 * half[0] + rng.uniform(-4.0, 4.0)),
        14.0 + rng.uniform(-6.0, 6.0),
        (-7.0 if side < 0 else 6.0) + rng.uniform(-9.0, 9.0),
    )
    turns = side * rng.uniform(0.1, 0.7), side * rng.uniform(0.08, 0.3)
    solid = Ellipsoid(middle, (27.0 * size, 25.0 * size, 54.0 * size), *turns)
    grown, cyst = _grow(rng, side, solid, (10.0, 34.0)), _grow(rng, side, solid, (4.0, 15.0))
    return Kidney(side, solid, grown if tumour else None, cyst if rng.random() < cysts else None)


def draw_kidney(
    rng: np.random.Generator, kidney: Kidney, points: Points, tissue: dict[str, float], fine: Array
) -> Organ:
    """The label `kidney` covers what surgeons call the kidney, cysts included, its fatty sinus and vessels not."""
    solid = kidney.solid
    whole = solid.depth(points, 1.2 * fine)
    u, v, w = solid.local(points)
    half = np.float32(solid.half[0]), np.float32(solid.half[1]), np.float32(solid.half[2])
    # The sinus opens towards the spine.
    toward = np.float32(-kidney.side) * u / half[0]
    sinus = (0.62 - np.hypot(np.hypot((toward - 0.75) / 0.9, v / half[1]), w / half[2] / 0.75)) * half[0]
    sinus = np.asarray(sinus + 0.8 * fine, dtype=np.float32)
    flesh = np.minimum(whole, -sinus)
    columns = 0.5 + 0.3 * np.sin(np.float32(7.0) * np.arctan2(w / half[2], u / half[0])) + 0.2 * fine
    layers: list[tuple[Array, Array | float]] = [
        (whole, tissue["cortex"] + 4.0 * fine),
        (np.minimum(whole - 6.0, 6.0 * (columns - 0.25)), tissue["medulla"] + 4.0 * fine),
        (np.minimum(sinus, whole + 6.0), _FAT),
        (np.minimum(sinus - 5.0, whole), 0.75 * tissue["blood"]),
    ]
    if kidney.cyst is not None:
        ball = kidney.cyst.depth(points)
        layers.append((ball, _WATER))
        flesh = np.maximum(flesh, ball)
    growth = None
    if kidney.tumour is not None:
        growth, inner = _draw_tumour(rng, kidney.tumour, points, tissue, fine)
        layers.append((growth, inner))
    return Organ(layers, np.asarray(flesh, dtype=np.float32), growth)


def _draw_tumour(
    rng: np.random.Generator, ball: Ellipsoid, points: Points, tissue: dict[str, float], fine: Array
) -> tuple[Array, Array]:
    """A lobed, patchy ball: small ones alike all over, large ones dead in the middle."""
    radius = min(ball.half)
    lobes = cloud(points, rng, max(0.8 * radius, 9.0))
    depth = ball.depth(points, 0.13 * radius * lobes)
    patches = cloud(points, rng, 12.0)
    alive = tissue["tumour"] * rng.uniform(0.85, 1.2)
    inner = alive + 0.12 * alive * patches + 3.0 * fine
    if radius > 14.0:
        dead = np.clip((depth - 0.4 * radius + 3.0 * patches) / 4.0, 0.0, 1.0)
        inner = inner + dead * (22.0 - inner)
    return depth, np.asarray(inner, dtype=np.float32)


def _grow(rng: np.random.Generator, side: int, solid: Ellipsoid, radii: tuple[float, float]) -> Ellipsoid:
    """A ball on the kidney's outer side, half in and half out; small ones are as frequent as large ones."""
    radius = float(np.exp(rng.uniform(*np.log(radii))))
    across = rng.uniform(-1.1, 1.1)
    along = rng.uniform(-0.55, 0.55)
    reach = rng.uniform(0.7, 1.0)
    outward = side * np.cos(across), np.sin(across)
    ring = np.sqrt(1.0 - along**2) * reach
    half = solid.half
    place = solid.out((half[0] * outward[0] * ring, half[1] * outward[1] * ring, half[2] * along))
    shape = radius * rng.uniform(0.85, 1.15, 3)
    return Ellipsoid(place, (float(shape[0]), float(shape[1]), float(shape[2])))
