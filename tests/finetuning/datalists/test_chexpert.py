from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from public_data import chexpert_row, patients, read, write_chexpert

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.chexpert import OBSERVATIONS, chexpert


@pytest.fixture
def root(tmp_path: Path) -> Path:
    train = [
        chexpert_row(1, Cardiomegaly="1.0", Edema="-1.0", Fracture="0.0"),
        chexpert_row(1, study=2, Edema="1.0"),
        chexpert_row(2, view="Lateral", No_Finding="1.0"),
        *(chexpert_row(patient, No_Finding="1.0") for patient in range(2, 12)),
    ]
    valid = [chexpert_row(64541, part="valid", Cardiomegaly="1.0", Edema="0.0")]
    return write_chexpert(tmp_path / "CheXpert-v1.0-small", train, valid)


def labels(path: Path) -> dict[str, dict[str, int]]:
    content = read(path)
    every = [item for part in ("training", "validation", "test") for item in content[part]]
    return {item["image"]: dict(zip(OBSERVATIONS, item["label"], strict=True)) for item in every}


FIRST = "train/patient00001/study1/view1_frontal.jpg"


@pytest.mark.parametrize(
    ("policy", "edema", "fracture", "pneumonia"),
    [
        ({}, -1, 0, 0),
        ({"uncertain": "zeros"}, 0, 0, 0),
        ({"uncertain": "ones"}, 1, 0, 0),
        ({"uncertain": "ones", "blank": "missing"}, 1, 0, -1),
    ],
)
def test_uncertain_and_blank_follow_the_policy(
    root: Path, tmp_path: Path, policy: dict[str, Any], edema: int, fracture: int, pneumonia: int
) -> None:
    assert chexpert(str(root), str(tmp_path / "list.json"), **policy) == 0
    label = labels(tmp_path / "list.json")[FIRST]
    assert (label["Edema"], label["Fracture"], label["Pneumonia"]) == (edema, fracture, pneumonia)
    assert label["Cardiomegaly"] == 1


def test_official_validation_images_are_the_test_section(root: Path, tmp_path: Path) -> None:
    chexpert(str(root), str(tmp_path / "list.json"), validation_share=0.3)
    who = patients(read(tmp_path / "list.json"))
    assert who["test"] == {"patient64541"}
    assert len(who["validation"]) == 3
    assert who["training"] | who["validation"] == {f"patient{number:05d}" for number in range(1, 12)}
    assert not who["training"] & who["validation"]


def test_lateral_images_come_only_when_allowed(root: Path, tmp_path: Path) -> None:
    chexpert(str(root), str(tmp_path / "frontal.json"))
    chexpert(str(root), str(tmp_path / "both.json"), allow_lateral=True)
    more = labels(tmp_path / "both.json").keys() - labels(tmp_path / "frontal.json").keys()
    assert more == {"train/patient00002/study1/view1_lateral.jpg"}


def test_folder_round_the_release_will_do(root: Path, tmp_path: Path) -> None:
    assert chexpert(str(tmp_path), str(tmp_path / "list.json")) == 0
    assert f"CheXpert-v1.0-small/{FIRST}" in labels(tmp_path / "list.json")
    other = root.rename(tmp_path / "renamed by hand")
    assert chexpert(str(tmp_path), str(tmp_path / "list.json")) == 0
    assert f"{other.name}/{FIRST}" in labels(tmp_path / "list.json")


def test_two_releases_in_one_folder_are_told_apart_by_the_user(tmp_path: Path) -> None:
    for release in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        write_chexpert(tmp_path / release, [chexpert_row(1)], [chexpert_row(2, part="valid")])
    with pytest.raises(UserError, match=r"several times \(CheXpert-v1.0, CheXpert-v1.0-small\)"):
        chexpert(str(tmp_path), str(tmp_path / "list.json"))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_table_from_a_spreadsheet_reads_the_same(tmp_path: Path, ending: str) -> None:
    rows = [chexpert_row(number, Edema="1") for number in range(1, 5)]
    root = write_chexpert(tmp_path / "data", rows, [chexpert_row(9, part="valid")], ending)
    table = root / "train.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes() + ending.encode() * 2)
    chexpert(str(root), str(tmp_path / "list.json"))
    assert {label["Edema"] for name, label in labels(tmp_path / "list.json").items() if "train" in name} == {1}


def test_missing_image_is_listed_by_its_path(root: Path, tmp_path: Path) -> None:
    (root / FIRST).unlink()
    assert chexpert(str(root), str(tmp_path / "list.json")) == 3
    assert (tmp_path / "list.missing.txt").read_text() == f"{FIRST}\n"
    assert FIRST not in labels(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (chexpert_row(3, Edema="2.0"), "Edema: '2.0' is not 1, 0, -1 or empty"),
        (chexpert_row(3, Edema="yes"), "Edema: 'yes' is not 1, 0, -1 or empty"),
        (chexpert_row(3, Edema="1.0"), "two rows for .*patient00003.* that disagree"),
        ("CheXpert-v1.0-small/../x/patient00001/a.jpg,F,1,Frontal,AP" + "," * 14, "names no patient"),
    ],
)
def test_damaged_row_is_refused(root: Path, tmp_path: Path, row: str, message: str) -> None:
    with (root / "train.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(UserError, match=message):
        chexpert(str(root), str(tmp_path / "list.json"))


@pytest.mark.parametrize(("flag", "value"), [("uncertain", "u-ones"), ("blank", "zero")])
def test_unknown_policy_is_refused(root: Path, tmp_path: Path, flag: str, value: str) -> None:
    with pytest.raises(UserError, match=f"--{flag} must be one of .*, got '{value}'"):
        chexpert(str(root), str(tmp_path / "list.json"), **{flag: value})


def test_table_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "valid.csv"):
        (tmp_path / name).write_text("id,label\n1,2\n")
    with pytest.raises(UserError, match=r"train.csv has no column Path, .* but id, label"):
        chexpert(str(tmp_path), str(tmp_path / "list.json"))
