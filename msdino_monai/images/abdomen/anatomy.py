"""One patient's abdomen: where its organs lie and what a CT would measure in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.abdomen.kidney import Kidney, draw_kidney, place_kidney
from msdino_monai.images.abdomen.plan import Patient
from msdino_monai.images.abdomen.shape import Array, Ellipsoid, Points, cloud, cover, tube
from msdino_monai.images.abdomen.site import PHASES, Site

KIDNEY, TUMOUR = 1, 2

_AIR, _FAT, _MUSCLE, _GUT = -1000.0, -102.0, 56.0, 34.0
_BACK = 88.0  # where the back's muscles end, in mm behind the kidneys' middle


@dataclass(frozen=True)
class Abdomen:
    """Hounsfield units as a perfect scanner would measure them, and what is where."""

    hounsfield: Array
    label: npt.NDArray[np.uint8]
    phase: str


@dataclass(frozen=True)
class Build:
    """A patient's size, and where the kidneys lie and what grows in them; all that a scanner is aimed by."""

    half: tuple[float, float]  # of the muscles' outline, to the side and to the front
    kidneys: tuple[Kidney, Kidney]

    @classmethod
    def of(cls, patient: Patient, site: Site) -> Build:
        rng = patient.rng("build")
        girth = site.girth * float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.2))
        half = (138.0 * girth, 98.0 * girth * rng.uniform(0.94, 1.08))
        diseased = int(rng.integers(2))
        return cls(
            half,
            (
                place_kidney(rng, -1, half, patient.tumour and diseased == 0, site.cysts),
                place_kidney(rng, 1, half, patient.tumour and diseased == 1, site.cysts),
            ),
        )


class _Canvas:
    """Hounsfield units that are painted over, later organs in front."""

    def __init__(self, points: Points, width: float) -> None:
        self.points, self.width = points, width
        self.values = np.full(points.x.shape, _AIR, dtype=np.float32)

    def paint(self, depth: Array, value: Array | float, within: Array | float = 1.0) -> None:
        share = cover(depth, self.width) * within
        self.values += share * (np.asarray(value, dtype=np.float32) - self.values)


def draw_abdomen(patient: Patient, site: Site, build: Build, points: Points, width: float) -> Abdomen:
    """The abdomen at `points`, with edges as sharp as voxels of `width` mm show them."""
    rng = patient.rng("body")
    phase = str(rng.choice(list(site.phases), p=list(site.phases.values())))
    tissue = {name: value * rng.uniform(0.9, 1.1) for name, value in PHASES[phase].items()}
    canvas = _Canvas(points, width)
    bumps, fine = cloud(points, rng, 34.0), cloud(points, rng, 9.0)
    inside = _draw_wall(canvas, rng, bumps, build.half)
    _draw_gut(canvas, rng, inside, fine)
    _draw_liver_and_spleen(canvas, rng, tissue, bumps, fine, inside, build.half)
    _draw_spine(canvas, rng, fine)
    _draw_vessels(canvas, rng, tissue)
    label = np.zeros(points.x.shape, dtype=np.uint8)
    organs = [draw_kidney(patient.rng(f"kidney {each.side}"), each, points, tissue, fine) for each in build.kidneys]
    for organ in organs:
        for depth, value in organ.layers:
            canvas.paint(depth, value)
        label[organ.kidney > 0] = KIDNEY
    for organ in organs:
        if organ.tumour is not None:
            label[organ.tumour > 0] = TUMOUR
    return Abdomen(canvas.values, label, phase)


def _draw_wall(canvas: _Canvas, rng: np.random.Generator, bumps: Array, half: tuple[float, float]) -> Array:
    """Skin, fat and muscle round the abdominal cavity and ribs in its upper part; returns the depth in the cavity."""
    points = canvas.points
    middle = _BACK - half[1]
    fat = rng.uniform(8.0, 30.0)
    u, v = np.abs(points.x) / np.float32(half[0]), np.abs(points.y - middle) / np.float32(half[1])
    level = (u**2.4 + v**2.4) ** np.float32(1 / 2.4)
    depth = (1.0 - level) * np.float32(half[1]) + 1.5 * bumps  # of the muscles' outer side
    canvas.paint(depth + fat, _FAT)
    canvas.paint(np.minimum(depth + fat, 2.5 - depth - fat), 20.0)  # skin
    canvas.paint(depth, _MUSCLE + 6.0 * bumps)
    inside = depth - rng.uniform(9.0, 14.0)
    canvas.paint(inside, _FAT)
    angle = np.arctan2(points.y - middle, points.x)
    rib = 5.0 - np.abs(inside + 5.0) - 9.0 * (1.0 - np.cos(9.0 * angle + points.z / 9.0)).clip(0, 1)
    upper = np.clip((points.z - rng.uniform(10.0, 35.0)) / 20.0, 0.0, 1.0)
    canvas.paint(np.asarray(rib, dtype=np.float32), 330.0, upper)
    return np.asarray(inside, dtype=np.float32)


def _draw_gut(canvas: _Canvas, rng: np.random.Generator, inside: Array, fine: Array) -> None:
    """Loops in front: walls that take up contrast, filled with chyme, stool or gas."""
    points = canvas.points
    loops = cloud(points, rng, 21.0)
    content = cloud(points, rng, 46.0)
    front = np.clip((8.0 - points.y) / 20.0, 0.0, 1.0)
    wall = 9.0 * (0.75 - np.abs(loops - 0.1)) - 5.0 * (1.0 - front)
    canvas.paint(np.minimum(wall, inside - 3.0), _GUT + 26.0 + 7.0 * fine)
    lumen = np.minimum(wall - 3.0, inside - 6.0)
    canvas.paint(lumen, _GUT - 16.0 + 26.0 * content + 9.0 * fine)
    # Gas rises to the front of a loop.
    canvas.paint(np.minimum(lumen - 1.0, 8.0 * (content - 1.0) - (points.y + 30.0) / 9.0), -880.0)


def _draw_liver_and_spleen(
    canvas: _Canvas,
    rng: np.random.Generator,
    tissue: dict[str, float],
    bumps: Array,
    fine: Array,
    inside: Array,
    half: tuple[float, float],
) -> None:
    points = canvas.points
    lift = rng.uniform(20.0, 46.0)
    liver = Ellipsoid((-0.52 * half[0], -24.0, lift + 22.0), (0.52 * half[0], 62.0, 66.0), 0.25, 0.3)
    depth = np.minimum(liver.depth(points, 5.0 * bumps), inside - 2.0)
    canvas.paint(depth, tissue["liver"] + 4.0 * fine)
    veins = cloud(points, rng, 17.0)
    canvas.paint(np.minimum(5.0 * (0.16 - np.abs(veins)), depth - 8.0), 0.5 * (tissue["blood"] + tissue["liver"]))
    spleen = Ellipsoid((0.66 * half[0], 10.0, lift + 24.0), (26.0, 38.0, 44.0), -0.5, -0.2)
    canvas.paint(np.minimum(spleen.depth(points, 4.0 * bumps), inside - 2.0), tissue["spleen"] + 5.0 * fine)


def _draw_spine(canvas: _Canvas, rng: np.random.Generator, fine: Array) -> None:
    """Psoas muscles, vertebrae with their cortex, discs between them, the canal, processes and muscles of the back."""
    points = canvas.points
    back = 34.0
    for side in (-1.0, 1.0):
        psoas = tube(points, side * 34.0, 30.0, rng.uniform(13.0, 17.0), side * 5.0)
        canvas.paint(psoas, _MUSCLE)
        canvas.paint(tube(points, side * 28.0, 62.0, 22.0), _MUSCLE - 6.0)
    height = rng.uniform(33.0, 38.0)
    phase = (points.z / np.float32(height) + np.float32(rng.random())) % np.float32(1.0)
    disc = np.abs(phase - 0.5) * height - 4.0  # depth in a vertebra, up and down
    body = tube(points, 0.0, back, 22.0)
    canvas.paint(body, 85.0)
    canvas.paint(np.minimum(body, disc), 360.0)
    canvas.paint(np.minimum(body, disc) - 2.5, 190.0 + 28.0 * fine)
    arch = np.minimum(13.0 - np.abs(points.x), 36.0 - np.abs(points.y - back - 34.0))
    process = np.minimum(np.minimum(5.0 - np.abs(points.x), 16.0 - np.abs(points.y - back - 38.0)), disc)
    canvas.paint(np.minimum(arch, tube(points, 0.0, back + 27.0, 15.0)), 300.0)
    canvas.paint(np.asarray(process, dtype=np.float32), 320.0)
    canvas.paint(tube(points, 0.0, back + 27.0, 9.0), 28.0)


def _draw_vessels(canvas: _Canvas, rng: np.random.Generator, tissue: dict[str, float]) -> None:
    points = canvas.points
    canvas.paint(tube(points, 9.0, 2.0, rng.uniform(9.0, 12.0), rng.uniform(-4.0, 4.0)), tissue["blood"])
    vena_cava = 0.6 * tissue["blood"] + 40.0 if tissue["blood"] > 200 else 0.9 * tissue["blood"]
    canvas.paint(tube(points, -20.0, 4.0, rng.uniform(9.0, 13.0)), vena_cava)
