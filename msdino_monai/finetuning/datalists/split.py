"""Which patients are for training, validation and test; nobody is in two sections."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.finetuning.few_labels import (
    balanced_order,
    findings_of_patients,
    named_patient,
    patient_of,
    whole_share,
)
from msdino_monai.numbers import check_whole_numbers

TRAINING, VALIDATION, TEST = SECTIONS = ("training", "validation", "test")

Item = dict[str, Any]


def check_split(seed: int, **shares: Any) -> None:
    """Refuse shares that leave nothing to train on."""
    check_whole_numbers(0, seed=seed)
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(f"--{name} must be at least 0 and below 1, got {share!r}.")
    if sum(shares.values()) >= 1:
        raise UserError(f"--{' and --'.join(shares)} leave nothing for training; make them smaller.")


def split_items(
    items: Sequence[Item], shares: Mapping[str, float], seed: int, findings_key: str
) -> dict[str, list[Item]]:
    """Share patients out by a seeded hash of their ids, classes alike in all sections; what is left is for training."""
    findings = findings_of_patients(items, findings_key)
    counts = {name: max(1, whole_share(share, len(findings))) for name, share in shares.items() if share > 0}
    left = len(findings) - sum(counts.values())
    if left < 1:
        wanted = ", ".join(f"{count} for {name}" for name, count in counts.items())
        raise UserError(f"{len(findings)} patients are too few to take {wanted}; make the shares 0 or add data.")
    # Training comes first in the order, so that it is the section a rare class is sure to be in.
    section: dict[str, str] = {}
    order = iter(balanced_order(findings, f"split {seed}"))
    for name, count in {TRAINING: left, **counts}.items():
        section.update(dict.fromkeys(itertools.islice(order, count), name))
    sections: dict[str, list[Item]] = {name: [] for name in (TRAINING, *shares)}
    for place, item in enumerate(items):
        sections[section[patient_of(item, place)]].append(item)
    return sections


def check_patients_apart(sections: Mapping[str, Any], source: str) -> None:
    """Refuse a patient who is in two sections: what is measured on them would be remembered, not recognised.

    An item without a patient is known by its image. Of a whole datalist every list of items is a section, whatever its
    name; what else stands in it is passed over.
    """
    seen: dict[str, str] = {}
    for name, items in sections.items():
        for item in items if isinstance(items, list) else ():
            who = _who(item) if isinstance(item, Mapping) else ""
            if who and seen.setdefault(who, name) != name:
                raise UserError(f"{source} has {who} in both {seen[who]} and {name}; keep each patient in one.")


def _who(item: Mapping[str, Any]) -> str:
    if patient := named_patient(item):
        return f"patient {patient}"
    image = item.get("image")
    return f"image {PurePosixPath(image)}" if isinstance(image, str) and image.strip() else ""
