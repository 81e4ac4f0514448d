"""Who has what, who comes back, who is in which split: decided by the seed before anything is drawn."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.scanner import site_style

SPLITS = {"training": 0.6, "validation": 0.2, "test": 0.2}
REVISIT = 0.3

# Findings are dealt within groups, so that a patient of a complete group stays the same in a larger cohort.
_GROUP = 20


def stream(seed: int, site: int, patient: int, purpose: str) -> np.random.Generator:
    """The random stream for one purpose; nothing else draws from it."""
    words = [seed, site, patient, zlib.crc32(purpose.encode())]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


@dataclass(frozen=True)
class Visit:
    """One radiograph to make."""

    seed: int
    site: int
    patient: int
    visit: int
    findings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{'abcdefghijklmnopqrstuvwxyz'[self.site]}{self.patient + 1:04d}_{self.visit + 1}"

    @property
    def patient_id(self) -> str:
        return f"SYN-{self.name[0].upper()}-{self.patient + 1:04d}"

    @property
    def label(self) -> list[int]:
        return [int(name in self.findings) for name in FINDINGS]

    def rng(self, purpose: str, every_visit: bool = False) -> np.random.Generator:
        """A stream for the patient, or with `every_visit` for this visit alone."""
        return stream(self.seed, self.site, self.patient, f"{purpose} {self.visit}" if every_visit else purpose)


def deal_findings(seed: int, site: int, patients: int) -> npt.NDArray[np.bool_]:
    """(patients, findings): exactly round(prevalence x patients) of each."""
    table = np.zeros((patients, len(FINDINGS)), dtype=bool)
    for column, prevalence in enumerate(site_style(site).prevalence):
        dealt = 0
        for group, first in enumerate(range(0, patients, _GROUP)):
            last = min(first + _GROUP, patients)
            due = round_half_up(prevalence * last) - dealt
            order = stream(seed, site, group, f"deal {FINDINGS[column]}").permutation(_GROUP)
            order = order[order < last - first]
            table[first + order[:due], column] = True
            dealt += due
    return table


def round_half_up(value: float) -> int:
    return int(np.floor(value + 0.5 + 1e-9))


def visits(seed: int, site: int, patients: int) -> list[Visit]:
    """Every radiograph of a site; some patients come back once."""
    table = deal_findings(seed, site, patients)
    found = [tuple(name for name, has in zip(FINDINGS, row, strict=True) if has) for row in table]
    return [
        Visit(seed, site, patient, visit, found[patient])
        for patient in range(patients)
        for visit in range(2 if stream(seed, site, patient, "revisit").random() < REVISIT else 1)
    ]


def split_patients(seed: int, site: int, patients: int) -> list[str]:
    """The split of each patient: the rarest findings are shared out first, then the rest."""
    table = deal_findings(seed, site, patients)
    shares = np.array(list(SPLITS.values()))
    room = shares * patients
    wanted = shares[:, None] * table.sum(axis=0)  # (splits, findings) still due
    order = stream(seed, site, 0, "splits").permutation(patients)
    rarest = np.where(table, table.sum(axis=0), patients + 1).min(axis=1, initial=patients + 1)
    split = np.zeros(patients, dtype=int)
    for patient in order[np.argsort(rarest[order], kind="stable")]:
        has = table[patient]
        need = wanted[:, has & (table.sum(axis=0) == rarest[patient])].sum(axis=1) if has.any() else np.zeros(3)
        # Ties and patients without findings go where most room is left.
        split[patient] = max(range(3), key=lambda k: (round(float(need[k]), 6), round(float(room[k]), 6)))
        wanted[split[patient], has] -= 1.0
        room[split[patient]] -= 1.0
    return [list(SPLITS)[k] for k in split]
