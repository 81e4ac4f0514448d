"""Training on few labels: which patients to keep, so that a small list still resembles the whole."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError

# How many waiting patients are compared for the next place: enough to balance, few enough to stay a random draw.
_WINDOW = 64


def few_labels(
    items: Sequence[Mapping[str, Any]], label_fraction: float, seed: int = 0, label_key: str = "label"
) -> list[dict[str, Any]]:
    """The items of a share of the patients, in their order; every class is kept if that is possible.

    For one seed a smaller fraction is a subset of a larger one. An item without `patient` is a patient of its own.
    """
    if isinstance(label_fraction, bool) or not isinstance(label_fraction, (int, float)) or not 0 < label_fraction <= 1:
        raise UserError(f"--label_fraction must be above 0 and at most 1, got {label_fraction!r}.")
    findings = findings_of_patients(items, label_key)
    count = max(1, whole_share(label_fraction, len(findings)))
    kept = set(balanced_order(findings, f"few labels {seed}")[:count])
    return [dict(item) for place, item in enumerate(items) if patient_of(item, place) in kept]


def patient_of(item: Mapping[str, Any], place: int) -> str:
    """What an item's patient is called here; an unnamed one is called by the item's place in its list."""
    return f"patient {item['patient']}" if named_patient(item) else f"item {place}"


def named_patient(item: Mapping[str, Any]) -> str:
    """Who an item says its patient is, the number 0 too; empty where it says nobody."""
    patient = item.get("patient")
    return "" if patient is None else str(patient).strip()


def findings_of_patients(items: Sequence[Mapping[str, Any]], label_key: str) -> dict[str, frozenset[int]]:
    """Per patient, the classes that are positive in any of the items."""
    findings: dict[str, frozenset[int]] = {}
    for place, item in enumerate(items):
        patient = patient_of(item, place)
        findings[patient] = findings.get(patient, frozenset()) | positives(item.get(label_key))
    return findings


def positives(label: Any) -> frozenset[int]:
    """The classes a label names: ones of a multi-hot list, or a class index; a mask's path names none."""
    if isinstance(label, (list, tuple)):
        return frozenset(place for place, value in enumerate(label) if isinstance(value, (int, float)) and value >= 0.5)
    if isinstance(label, (int, float)) and label >= 0:
        return frozenset([int(label)])
    return frozenset()


def whole_share(share: float, count: int) -> int:
    return int(share * count + 0.5 + 1e-9)


def balanced_order(findings: Mapping[str, frozenset[int]], stream: str) -> list[str]:
    """Shuffle patients so that any first few resemble all: first every class once, then class shares as near as can be.

    `stream` decides the shuffle: it and the patients' names are all the randomness there is.
    """
    patients = _shuffled(findings, stream)
    table = _classes([findings[patient] for patient in patients])
    shares = table.mean(axis=0) if patients else np.ones(1)
    order = _one_of_each(table)
    counts = table[order].sum(axis=0)
    taken = set(order)
    queue = (row for row in range(len(patients)) if row not in taken)
    waiting = list(itertools.islice(queue, _WINDOW))
    while waiting:
        # The sum over classes of (count - due)^2 / share, less what is the same whoever comes next.
        price = (2 * (counts - (len(order) + 1) * shares) + 1) / shares
        best = int(np.round(table[waiting] @ price, 9).argmin())  # ties go to whoever came first, on every machine
        order.append(waiting.pop(best))
        counts = counts + table[order[-1]]
        waiting.extend(itertools.islice(queue, 1))
    return [patients[row] for row in order]


def _shuffled(findings: Mapping[str, frozenset[int]], stream: str) -> list[str]:
    """A random order in which patients of the same findings are spread evenly."""
    draws = {patient: hashlib.sha256(f"{stream}\0{patient}".encode()).digest() for patient in findings}
    alike: dict[frozenset[int], list[str]] = {}
    for patient in sorted(draws, key=draws.__getitem__):
        alike.setdefault(findings[patient], []).append(patient)
    place = {
        patient: (rank + int.from_bytes(draws[patient][-6:], "big") / 2**48) / len(group)
        for group in alike.values()
        for rank, patient in enumerate(group)
    }
    return sorted(findings, key=lambda patient: (place[patient], draws[patient]))


def _classes(findings: Sequence[frozenset[int]]) -> npt.NDArray[np.float64]:
    """(patients, classes): 1 where present; having none at all counts as a class, and absent classes have no column."""
    present: list[int] = sorted(frozenset().union(*findings))
    table = np.array([[*(index in found for index in present), not found] for found in findings], dtype=np.float64)
    table = table.reshape(len(findings), len(present) + 1)
    return table[:, table.any(axis=0)] if len(findings) else table


def _one_of_each(table: npt.NDArray[np.float64]) -> list[int]:
    """Rows that have every class between them, those with most first: a list too short for all loses fewest."""
    rows: list[int] = []
    open_classes = table.any(axis=0)
    while open_classes.any():
        rows.append(int(table[:, open_classes].sum(axis=1).argmax()))
        open_classes &= table[rows[-1]] == 0
    return rows
