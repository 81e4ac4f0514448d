"""Who is radiographed and how they stand: all that a chest's shape depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msdino_monai.images.cohort.primitives import Array, Ellipsoid, smoothstep


@dataclass(frozen=True)
class Patient:
    """One person's chest in mm and relative sizes; the same on every visit."""

    sex: str
    age: int
    height: float  # m
    weight: float  # kg
    half_width: float  # of the rib cage's inside, at its widest
    half_depth: float
    apex_height: float  # from the apices to where the cage is widest
    dome: float  # y of the right dome of the diaphragm
    dome_step: float  # the left dome lies lower by this
    wall: float  # soft tissue lateral to the ribs
    heart_ratio: float  # heart's width over the rib cage's inner width
    heart_tilt: float
    aorta: float
    vessels: float
    lung_density: float
    bone: float
    rib_drop: float
    rib_pitch: float
    breast: float
    bubble: float

    def width(self, y: Array) -> Array:
        """Half the inner width of the rib cage at height y."""
        u = np.clip(1.0 - y / self.apex_height, 0.0, 1.0)
        lower = 1.0 - 0.03 * smoothstep(y, self.apex_height + 20, self.apex_height + 110)
        return np.asarray(self.half_width * np.sqrt(np.maximum(1.0 - u * u * (0.75 + 0.25 * u), 1e-9)) * lower)

    def depth(self, y: Array) -> Array:
        """Half the inner depth of the rib cage at height y."""
        u = np.clip(1.0 - y / (0.85 * self.apex_height), 0.0, 1.0)
        return np.asarray(self.half_depth * (0.28 + 0.72 * np.sqrt(np.maximum(1.0 - u * u, 0.0))))

    def dome_line(self, x: Array) -> Array:
        """The diaphragm's summit line y(x): two domes that fall to the costophrenic angles."""
        scale = self.half_width / 140.0
        left = x > 0.0
        summit = self.dome + self.dome_step * smoothstep(x, -30.0, 30.0)
        u = np.abs(x) - np.where(left, 68.0, 62.0) * scale
        outward = np.clip(u / (72.0 * scale), 0.0, 1.2) ** 2
        inward = np.clip(-u / (70.0 * scale), 0.0, 1.2) ** 2
        return np.asarray(summit + scale * (outward * (16.0 + 30.0 * outward) + 15.0 * inward))

    def heart(self) -> list[Ellipsoid]:
        """Ventricles, right atrium and base, widened to the heart ratio."""
        floor = self.dome + 15.0
        tilt = self.heart_tilt
        parts = [
            Ellipsoid(35.0, -33.0, 57.0, 44.0, 56.0, tilt),
            Ellipsoid(-9.0, -34.0, 33.0, 43.0, 48.0, -0.15),
            Ellipsoid(21.0, -66.0, 36.0, 47.0, 42.0, -0.35),
            Ellipsoid(14.0, -14.0, 50.0, 24.0, 42.0, 0.15),
        ]
        width = max(p.x + p.reach for p in parts) - min(p.x - p.reach for p in parts)
        grow = self.heart_ratio * 2.0 * self.half_width / width
        # Scaling every part alike keeps the ratio exact; a large heart leans more on the diaphragm than upwards.
        return [
            Ellipsoid(
                grow * p.x, floor + p.y * grow**0.6, grow * p.across, grow * p.along, p.depth * grow**0.6, p.angle
            )
            for p in parts
        ]

    def cardiothoracic_ratio(self) -> float:
        """The heart's true width over the rib cage's true inner width."""
        heart = self.heart()
        width = max(part.x + part.reach for part in heart) - min(part.x - part.reach for part in heart)
        return width / (2.0 * self.half_width)


@dataclass(frozen=True)
class Posture:
    """How the patient stands this time."""

    shift_x: float
    shift_y: float
    lean: float
    turn: float  # rotation about the long axis, in radians
    breath: float  # how much further than usual the diaphragm goes down
    shoulders: float
    exposure: float


def draw_patient(rng: np.random.Generator, large_heart: bool) -> Patient:
    """A person at random; the heart ratio says whether the heart is enlarged."""
    sex = "M" if rng.random() < 0.54 else "F"
    age = int(np.clip(rng.normal(56.0, 17.0), 18, 92))
    height = float(np.clip(rng.normal(1.77 if sex == "M" else 1.64, 0.065), 1.45, 2.0))
    bulk = float(np.clip(rng.normal(26.0, 4.2), 18.0, 39.0))
    size = height / 1.72
    breadth = (1.0 + 0.008 * (bulk - 25.0)) * (1.02 if sex == "M" else 0.95)
    half_width = 137.0 * size * breadth * rng.uniform(0.96, 1.04)
    dome = 214.0 * size * rng.uniform(0.92, 1.06) - 1.1 * (bulk - 25.0)
    ratio = rng.uniform(0.565, 0.69) if large_heart else np.clip(0.435 + 0.0009 * (age - 55), 0.40, 0.475)
    return Patient(
        sex=sex,
        age=age,
        height=height,
        weight=bulk * height**2,
        half_width=half_width,
        half_depth=(74.0 + 0.9 * (bulk - 25.0)) * size * rng.uniform(0.94, 1.06),
        apex_height=150.0 * size * rng.uniform(0.94, 1.08),
        dome=dome,
        dome_step=rng.uniform(7.0, 17.0),
        wall=float(np.clip(17.0 + 2.1 * (bulk - 22.0), 12.0, 52.0)),
        heart_ratio=ratio if large_heart else ratio + rng.uniform(-0.03, 0.02),
        heart_tilt=rng.uniform(0.42, 0.85),
        aorta=1.0 + 0.006 * (age - 50) + rng.uniform(-0.08, 0.08),
        vessels=rng.uniform(0.85, 1.2),
        lung_density=rng.uniform(0.0043, 0.0055),
        bone=float(np.clip(1.08 - 0.004 * (age - 45) + rng.uniform(-0.08, 0.08), 0.75, 1.2)),
        rib_drop=rng.uniform(0.85, 1.2),
        rib_pitch=rng.uniform(0.96, 1.05) * dome / 9.6,
        breast=float(rng.uniform(0.45, 1.0) * (0.7 + 0.03 * (bulk - 20.0))) if sex == "F" else 0.0,
        bubble=rng.uniform(0.0, 1.0),
    )


def draw_posture(rng: np.random.Generator) -> Posture:
    """A stance at random, near to straight."""
    return Posture(
        shift_x=rng.normal(0.0, 6.0),
        shift_y=rng.normal(0.0, 7.0),
        lean=float(np.clip(rng.normal(0.0, 0.018), -0.045, 0.045)),
        turn=float(np.clip(rng.normal(0.0, 0.045), -0.12, 0.12)),
        breath=rng.normal(0.0, 5.0),
        shoulders=rng.normal(0.0, 5.0),
        exposure=float(np.exp(rng.normal(0.0, 0.15))),
    )
