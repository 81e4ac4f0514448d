from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from msdino_monai.errors import UserError
from msdino_monai.finetuning import few_labels

PREVALENCE = np.array([0.3, 0.1, 0.05, 0.02, 0.004])


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    """2,000 patients, some with two or three images; findings go together."""
    rng = np.random.default_rng(0)
    sick = rng.random((2000, 1)) < 0.5
    table = (rng.random((2000, 5)) < 2 * PREVALENCE) & sick
    table[7, 4] = True
    visits = rng.integers(1, 4, 2000)
    return [
        {"image": f"{patient}_{visit}.png", "label": row.astype(int).tolist(), "patient": f"p{patient}"}
        for patient, row in enumerate(table)
        for visit in range(visits[patient])
    ]


def people(items: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {item["patient"]: item["label"] for item in items}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_smaller_fraction_is_a_subset_of_a_larger_one(items: list[dict[str, Any]], seed: int) -> None:
    chosen = [
        {item["image"] for item in few_labels(items, fraction, seed)}
        for fraction in (0.0001, 0.002, 0.01, 0.1, 0.33, 0.9, 1)
    ]
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert len(chosen[-1]) == len(items)


@pytest.mark.parametrize(("fraction", "count"), [(0.0001, 1), (0.01, 20), (0.1, 200), (0.5, 1000), (1, 2000)])
def test_fraction_is_of_patients_and_keeps_all_their_images(
    items: list[dict[str, Any]], fraction: float, count: int
) -> None:
    chosen = few_labels(items, fraction)
    kept = people(chosen).keys()
    assert len(kept) == count
    assert chosen == [item for item in items if item["patient"] in kept]


@pytest.mark.parametrize("seed", range(5))
def test_every_class_and_the_healthy_are_kept_by_a_few(items: list[dict[str, Any]], seed: int) -> None:
    table = np.array(list(people(few_labels(items, 0.003, seed)).values()))
    assert len(table) == 6
    assert table.any(axis=0).all()
    assert (table.sum(axis=1) == 0).any()


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_class_shares_are_nearer_than_those_of_a_random_draw(items: list[dict[str, Any]], fraction: float) -> None:
    every = np.array(list(people(items).values()))

    def worst(table: np.ndarray) -> float:
        return float(np.abs(table.sum(axis=0) - len(table) * every.mean(axis=0)).max())

    chosen = [worst(np.array(list(people(few_labels(items, fraction, seed)).values()))) for seed in range(5)]
    rng = np.random.default_rng(0)
    count = round(fraction * len(every))
    drawn = [worst(every[rng.permutation(len(every))[:count]]) for _ in range(50)]
    assert np.mean(chosen) < 0.5 * np.mean(drawn)
    assert max(chosen) <= 5


def test_patients_with_several_findings_are_as_frequent_as_among_all(items: list[dict[str, Any]]) -> None:
    def share(table: np.ndarray) -> float:
        return float((table.sum(axis=1) >= 2).mean())

    every, chosen = (np.array(list(people(part).values())) for part in (items, few_labels(items, 0.2)))
    assert share(chosen) == pytest.approx(share(every), abs=0.02)


def test_seed_decides_and_the_order_of_items_does_not(items: list[dict[str, Any]]) -> None:
    assert few_labels(items, 0.05, 3) == few_labels(items, 0.05, 3)
    assert people(few_labels(items, 0.05, 3)).keys() != people(few_labels(items, 0.05, 4)).keys()
    assert people(few_labels(items[::-1], 0.05, 3)) == people(few_labels(items, 0.05, 3))


def test_chosen_patients_are_the_same_on_every_machine() -> None:
    items = [{"image": f"{n}", "label": [n % 2, int(n % 5 == 0)], "patient": f"p{n}"} for n in range(40)]
    assert sorted(people(few_labels(items, 0.15, 0))) == ["p17", "p2", "p25", "p4", "p8", "p9"]


def test_items_without_a_patient_are_each_their_own() -> None:
    items = [{"image": f"{n}.png", "label": [1], "patient": ("", None, " ")[n % 3]} for n in range(9)]
    items += [{"image": f"{n}.png", "label": [1]} for n in range(9, 20)]
    assert len(few_labels(items, 0.5)) == 10


def test_patient_number_zero_is_a_patient() -> None:
    items = [{"image": f"{n}", "label": [0], "patient": n // 4} for n in range(8)]
    assert len(few_labels(items, 0.5)) == 4


def test_masks_and_class_numbers_are_labels_too() -> None:
    masks = [{"image": f"{n}.png", "label": f"{n}_mask.png", "patient": f"p{n}"} for n in range(30)]
    assert len(few_labels(masks, 0.1)) == 3
    numbers = [{"image": f"{n}.png", "label": n % 3, "patient": f"p{n}"} for n in range(30)]
    assert sorted(item["label"] for item in few_labels(numbers, 0.1)) == [0, 1, 2]


def test_unknown_labels_are_not_positive() -> None:
    items = [{"image": f"{n}", "label": [-1, int(n == 17)], "patient": f"p{n}"} for n in range(50)]
    assert "17" in [item["image"] for item in few_labels(items, 0.04)]


def test_other_keys_can_be_balanced() -> None:
    items = [{"image": f"{n}", "label": "m.png", "sick": [int(n < 2)], "patient": f"p{n}"} for n in range(100)]
    assert any(item["sick"] == [1] for item in few_labels(items, 0.02, label_key="sick"))


def test_nothing_stays_nothing() -> None:
    assert few_labels([], 0.5) == []


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), True, "0.5", None])
def test_fraction_that_is_none_is_refused(fraction: Any) -> None:
    with pytest.raises(UserError, match="--label_fraction must be above 0 and at most 1, got"):
        few_labels([{"image": "a", "label": [1]}], fraction)
