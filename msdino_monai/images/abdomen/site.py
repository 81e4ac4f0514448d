"""What differs between sites: scanner, protocol, and which patients come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Arrival of the contrast medium: Hounsfield units of what takes it up.
PHASES = {
    "native": {"blood": 42.0, "cortex": 34.0, "medulla": 30.0, "liver": 56.0, "spleen": 48.0, "tumour": 46.0},
    "arterial": {"blood": 270.0, "cortex": 185.0, "medulla": 75.0, "liver": 72.0, "spleen": 105.0, "tumour": 118.0},
    "venous": {"blood": 150.0, "cortex": 165.0, "medulla": 145.0, "liver": 108.0, "spleen": 118.0, "tumour": 90.0},
}


@dataclass(frozen=True)
class Site:
    """A hospital's scanner and patients."""

    model: str
    slice_spacing: float  # mm
    field: float  # mm across the image
    noise: float  # Hounsfield units
    sharpness: float  # mm that the reconstruction kernel blurs
    grain: float  # mm that noise is correlated over
    scale: float  # miscalibration
    offset: float
    stored_from: float  # what the file's value 0 means: some exports shift by 1024
    axes: str  # where the file's axes lead
    tilt: float  # degrees the table or the grid is oblique, at most
    phases: dict[str, float]  # shares of patients
    tumours: float  # share of patients with one
    cysts: float
    girth: float  # of the average patient; 1 is the first site's


_SITES = (
    Site(
        model="PHANTOM CT-16", slice_spacing=4.0, field=350.0, noise=13.0, sharpness=1.1, grain=1.3, scale=1.0,
        offset=0.0, stored_from=0.0, axes="LPS", tilt=0.0, phases={"venous": 0.8, "arterial": 0.2}, tumours=0.85,
        cysts=0.2, girth=1.0,
    ),
    Site(
        model="PHANTOM CT-64", slice_spacing=3.0, field=330.0, noise=24.0, sharpness=0.6, grain=0.8, scale=1.03,
        offset=-14.0, stored_from=-1024.0, axes="LAS", tilt=0.0, phases={"arterial": 0.7, "venous": 0.3}, tumours=0.75,
        cysts=0.35, girth=0.9,
    ),
    Site(
        model="PHANTOM CT-4", slice_spacing=5.0, field=390.0, noise=17.0, sharpness=1.9, grain=2.2, scale=0.96,
        offset=18.0, stored_from=0.0, axes="RAS", tilt=6.0, phases={"venous": 0.6, "native": 0.4}, tumours=0.9,
        cysts=0.45, girth=1.12,
    ),
)  # fmt: skip


def site(number: int) -> Site:
    """The first three are written down, further ones are drawn, always the same."""
    if number < len(_SITES):
        return _SITES[number]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([6419, number])))
    first, second = rng.permutation(list(PHASES))[:2].tolist()
    share = round(float(rng.uniform(0.5, 0.9)), 2)
    return Site(
        model=f"PHANTOM CT-{number}",
        slice_spacing=float(rng.choice([3.0, 3.75, 4.0, 5.0])),
        field=float(rng.choice([330.0, 350.0, 370.0, 390.0])),
        noise=float(rng.uniform(10.0, 26.0)),
        sharpness=float(rng.uniform(0.6, 2.0)),
        grain=float(rng.uniform(0.8, 2.2)),
        scale=float(rng.uniform(0.96, 1.04)),
        offset=float(rng.uniform(-20.0, 20.0)),
        stored_from=float(rng.choice([0.0, -1024.0])),
        axes=str(rng.choice(["LPS", "LAS", "RAS"])),
        tilt=float(rng.choice([0.0, 4.0, 8.0])),
        phases={first: share, second: round(1.0 - share, 2)},
        tumours=float(rng.integers(10, 19)) / 20.0,
        cysts=float(rng.uniform(0.1, 0.5)),
        girth=float(rng.uniform(0.88, 1.15)),
    )
