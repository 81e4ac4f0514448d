from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.split import check_patients_apart, check_split, split_items

SHARES = {"validation": 0.1, "test": 0.2}


def people(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two images each; findings of 30, 8 and 2 %."""
    rng = np.random.default_rng(seed)
    table = (rng.random((count, 3)) < [0.3, 0.08, 0.02]).astype(int)
    return [
        {"image": f"{n}_{visit}", "label": row.tolist(), "patient": f"p{n}"}
        for n, row in enumerate(table)
        for visit in (0, 1)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_and_classes_are_met_and_nobody_is_in_two_sections(seed: int) -> None:
    items = people(500)
    sections = split_items(items, SHARES, seed, "label")
    who = {name: {item["patient"] for item in part} for name, part in sections.items()}
    assert {name: len(patients) for name, patients in who.items()} == {"training": 350, "validation": 50, "test": 100}
    assert len(set().union(*who.values())) == 500
    every = np.array([item["label"] for item in items]).mean(axis=0)
    for part in sections.values():
        counts = np.array([item["label"] for item in part]).sum(axis=0)
        np.testing.assert_allclose(counts, len(part) * every, atol=6)  # three patients of two images


def test_split_depends_on_seed_and_names_alone() -> None:
    items = people(60)

    def where(items: list[dict[str, Any]], seed: int) -> dict[str, str]:
        sections = split_items(items, SHARES, seed, "label")
        return {item["image"]: name for name, part in sections.items() for item in part}

    assert where(items, 0) == where(items[::-1], 0)
    assert where(items, 0) != where(items, 1)


def test_class_of_a_single_patient_is_for_training() -> None:
    items = [{"image": f"{n}", "label": [n % 2, int(n == 33)], "patient": f"p{n}"} for n in range(50)]
    for seed in range(10):
        training = split_items(items, SHARES, seed, "label")["training"]
        assert any(item["label"][1] for item in training)


def test_section_with_a_share_gets_at_least_one_patient() -> None:
    items = [{"image": f"{n}", "label": [0], "patient": f"p{n}"} for n in range(3)]
    sections = split_items(items, SHARES, 0, "label")
    assert Counter({name: len(part) for name, part in sections.items()}) == {"training": 1, "validation": 1, "test": 1}
    assert split_items(items, {"validation": 0, "test": 0.3}, 0, "label")["validation"] == []


def test_too_few_patients_are_told() -> None:
    with pytest.raises(UserError, match="2 patients are too few to take 1 for validation, 1 for test"):
        split_items([{"image": f"{n}", "label": [0], "patient": f"p{n}"} for n in range(2)], SHARES, 0, "label")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 1}, "--validation_share must be at least 0 and below 1, got 1"),
        ({"validation_share": -0.1}, "got -0.1"),
        ({"validation_share": "a tenth"}, "got 'a tenth'"),
        ({"validation_share": True}, "got True"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing for training"),
    ],
)
def test_impossible_shares_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_split(0, **settings)
    with pytest.raises(UserError, match="--seed must be a whole number"):
        check_split(-1)


def test_items_without_a_patient_are_nobody_twice() -> None:
    check_patients_apart({"training": [{"patient": ""}, {}], "test": [{"patient": ""}, {}]}, "this")
    with pytest.raises(UserError, match="this has patient 7 in both training and test"):
        check_patients_apart({"training": [{"patient": 7}], "test": [{"patient": "7"}]}, "this")


def test_patient_zero_is_somebody() -> None:
    for nobody in (None, "", " "):
        check_patients_apart({"training": [{"patient": nobody}], "test": [{"patient": nobody}]}, "this")
    with pytest.raises(UserError, match="this has patient 0 in both training and test"):
        check_patients_apart({"training": [{"patient": 0}], "test": [{"patient": 0}]}, "this")


def test_what_is_no_section_of_a_datalist_is_passed_over() -> None:
    names: dict[str, Any] = {"labels": {"0": "a"}, "classes": ["a", "b"], "tensorImageSize": "2D", "numTest": 1}
    items = [{"image": "a.png"}]
    check_patients_apart({"description": "a.png", **names, "training": items, "test": ["a.png"]}, "this")
    with pytest.raises(UserError, match=r"this has image a\.png in both training and unseen"):
        check_patients_apart({**names, "training": items, "unseen": [{"image": "./a.png"}]}, "this")
