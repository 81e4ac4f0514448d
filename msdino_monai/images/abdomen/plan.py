"""Who has a tumour, who is in which section: decided by the seed before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msdino_monai.images.abdomen.site import site
from msdino_monai.images.cohort.plan import SPLITS, round_half_up, stream


@dataclass(frozen=True)
class Patient:
    """One volume to make."""

    seed: int
    site: int
    number: int
    tumour: bool

    @property
    def name(self) -> str:
        return f"{'abcdefghijklmnopqrstuvwxyz'[self.site]}{self.number + 1:04d}"

    @property
    def patient_id(self) -> str:
        return f"SYN-CT-{self.name[0].upper()}-{self.number + 1:04d}"

    def rng(self, purpose: str) -> np.random.Generator:
        """The random stream for one purpose; nothing else draws from it."""
        return stream(self.seed, self.site, self.number, f"abdomen {purpose}")


def patients(seed: int, number: int, count: int) -> list[Patient]:
    """A site's patients: of the first n, for any n, a share of tumours as near to the site's as can be."""
    share = site(number).tumours
    shift = float(stream(seed, number, 0, "abdomen tumours").random())
    # A line crosses a whole number exactly `share` times per patient, evenly spread.
    crossings = np.floor(share * np.arange(count + 1) + shift)
    has = np.diff(crossings) > 0
    if count and not has.any():
        has[0] = True  # something has to be there to learn
    return [Patient(seed, number, index, bool(tumour)) for index, tumour in enumerate(has)]


def sections(everyone: list[Patient]) -> dict[str, list[Patient]]:
    """Patients shared out, those with and without tumours alike; each section holds somebody if there are three."""
    room = _room(len(everyone))
    taken: dict[str, list[Patient]] = {name: [] for name in SPLITS}
    seed, number = everyone[0].seed, everyone[0].site
    order = stream(seed, number, len(everyone), "abdomen sections").permutation(len(everyone))
    shuffled = sorted((everyone[index] for index in order), key=lambda patient: not patient.tumour)
    for patient in shuffled:
        # Where the largest share of the room is left; training first among equals.
        name = max(room, key=lambda each: (room[each] - len(taken[each])) / max(room[each], 1))
        taken[name].append(patient)
    return {name: sorted(group, key=lambda patient: patient.number) for name, group in taken.items()}


def _room(count: int) -> dict[str, int]:
    room = {name: round_half_up(share * count) for name, share in SPLITS.items()}
    if count >= len(room):
        room = {name: max(1, wanted) for name, wanted in room.items()}
    room["training"] = count - room["validation"] - room["test"]
    return room
