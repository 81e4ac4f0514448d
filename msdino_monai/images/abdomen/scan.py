"""A site's scanner: the grid it measures on, its kernel, its noise, its calibration, its files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import

from msdino_monai.images.abdomen.anatomy import Build, draw_abdomen
from msdino_monai.images.abdomen.plan import Patient
from msdino_monai.images.abdomen.shape import Points
from msdino_monai.images.abdomen.site import Site, site

ndimage, _ = optional_import("scipy.ndimage")

# Where a file's axes lead, as columns of an affine to left, back and head.
_LEADS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1)}


@dataclass(frozen=True)
class Scan:
    """Stored values and class numbers (X, Y, Z), and the affine to the patient's right, front and head (RAS+)."""

    patient: Patient
    site: Site
    phase: str
    stored: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]

    @property
    def hounsfield(self) -> npt.NDArray[np.float32]:
        return np.asarray(self.stored.astype(np.float32) + np.float32(self.site.stored_from))


def make_scan(patient: Patient, size: int, slices: int) -> Scan:
    """Draw one patient's abdomen and scan it."""
    machine = site(patient.site)
    build = Build.of(patient, machine)
    affine = _grid(patient, machine, build, size, slices)
    shape = (size, size, slices)
    width = machine.field / size
    abdomen = draw_abdomen(patient, machine, build, Points.of(shape, affine), width)
    measured = ndimage.gaussian_filter(abdomen.hounsfield, _in_voxels(machine.sharpness, machine, size), mode="nearest")
    rng = patient.rng("noise")
    grain = ndimage.gaussian_filter(
        rng.standard_normal(shape).astype(np.float32), (*_in_voxels(machine.grain, machine, size)[:2], 0.0)
    )
    dose = machine.noise * rng.uniform(0.8, 1.3)
    measured = machine.scale * (measured + dose * grain / grain.std()) + machine.offset
    stored = np.rint(np.clip(measured, -1024.0, 3071.0) - machine.stored_from).astype(np.int16)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return Scan(patient, machine, abdomen.phase, stored, abdomen.label, to_ras @ affine)


def _grid(patient: Patient, machine: Site, build: Build, size: int, slices: int) -> npt.NDArray[np.float64]:
    """Indices to millimetres (left, back, head) from the middle between the kidneys; a tumour is never cut away."""
    rng = patient.rng("grid")
    angle = np.deg2rad(rng.uniform(0.3, 1.0) * machine.tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    spacing = np.array([machine.field / size, machine.field / size, machine.slice_spacing])
    affine: npt.NDArray[np.float64] = np.eye(4)
    affine[:3, :3] = turn @ np.array([_LEADS[letter] for letter in machine.axes], dtype=np.float64).T * spacing
    aim = np.array([rng.uniform(-8, 8), rng.uniform(-8, 8) - 8.0, rng.uniform(-8, 8)])
    reach = 0.3 * slices * machine.slice_spacing
    for tumour in (kidney.tumour for kidney in build.kidneys):
        if tumour is not None:
            aim[2] = np.clip(aim[2], tumour.middle[2] - reach, tumour.middle[2] + reach)
    affine[:3, 3] = aim - affine[:3, :3] @ ((np.array([size, size, slices]) - 1) / 2.0)
    return affine


def _in_voxels(millimetres: float, machine: Site, size: int) -> tuple[float, float, float]:
    """In-plane the kernel, along the table half a slice of partial volume."""
    across = millimetres * size / machine.field
    return across, across, 0.35
