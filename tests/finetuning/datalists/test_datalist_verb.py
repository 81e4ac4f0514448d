from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from public_data import chexpert_row, draw, read, write_chexpert, write_montgomery, write_nih14

from msdino_monai.__main__ import main
from msdino_monai.finetuning import read_datalist
from msdino_monai.finetuning.datalists import DATALISTS
from msdino_monai.finetuning.datalists.output import Findings, summary


def test_verb_alone_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datalist"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DATALISTS)


@pytest.mark.parametrize("name", DATALISTS)
def test_every_data_set_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datalist", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: python -m msdino_monai datalist {name} [--flag value ...]" in shown
    assert "--root                   required" in shown
    assert "Exit" in shown


def test_command_line_makes_a_datalist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {f"{number:08d}_000.png": "Mass|Edema" if number < 4 else "No Finding" for number in range(1, 11)}
    root = write_nih14(tmp_path / "nih", rows, ["00000003_000.png", "00000010_000.png"])
    output = tmp_path / "lists" / "nih.json"
    flags = ["--root", str(root), "--output_file", str(output), "--validation_share", "0.25", "--seed", "3"]
    assert main(["datalist", "nih14", *flags]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert table[:3] == [
        ["training", "validation", "test"],
        ["images", "6", "2", "2"],
        ["patients", "6", "2", "2"],
    ]
    assert ["Edema", "2", "0", "1"] in table or ["Edema", "1", "1", "1"] in table
    assert read(output)["description"].endswith("datalist nih14 --validation_share 0.25 --seed 3")


def test_missing_images_are_exit_status_3(tmp_path: Path) -> None:
    root = write_chexpert(tmp_path / "c", [chexpert_row(n) for n in range(4)], [chexpert_row(9, part="valid")])
    (root / "valid/patient00009/study1/view1_frontal.jpg").unlink()
    flags = ["--root", str(root), "--output_file", str(tmp_path / "list.json"), "--uncertain", "ones"]
    assert main(["datalist", "chexpert", *flags]) == 3
    assert read(tmp_path / "list.json")["test"] == []


def test_names_that_look_like_numbers_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_montgomery(tmp_path / "007", [f"MCUCXR_{n:04d}_{n % 2}" for n in range(8)])
    flags = ["--root", "007", "--masks_dir", "007/1e5", "--output_file", "1e5.json"]
    assert main(["datalist", "montgomery", *flags]) == 0
    assert read(tmp_path / "1e5.json")["training"][0]["label"].startswith("1e5/MCUCXR_")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nih"], 2, "unknown 'nih'; it is one of: chexpert, fed_ixi, fed_kits19, montgomery"),
        (["--root", "x"], 2, "unknown '--root'"),
        (["nih14", "--root", "x"], 2, "datalist nih14: missing --output_file"),
        (["nih14", "--rot", "x", "--output_file", "y"], 2, "did you mean --root?"),
        (["nih14", "--root", "/nowhere", "--output_file", "y.json"], 1, "--root '/nowhere' is not a folder"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datalist", *arguments]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_table_of_the_data_set_cannot_be_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_chexpert(tmp_path / "c", [chexpert_row(n) for n in range(4)], [chexpert_row(9, part="valid")])
    before = (root / "train.csv").read_bytes()
    assert main(["datalist", "chexpert", "--root", str(root), "--output_file", str(root / "train.csv")]) == 1
    assert "--output_file must be a .json file" in capsys.readouterr().err
    assert (root / "train.csv").read_bytes() == before


def test_summary_counts_unknown_labels_apart() -> None:
    items = [{"image": f"{n}", "patient": "p", "label": [n % 2, -1]} for n in range(4)]
    shown = summary({"training": items, "test": []}, Findings("label", ("mass", "edema")))
    assert [line.split(maxsplit=1) for line in shown.splitlines()[1:]] == [
        ["images", "4     0"],
        ["patients", "1     0"],
        ["mass", "2     0"],
        ["edema", "0 (4 unknown)     0"],
    ]


def test_documented_example_of_another_data_set_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs" / "datalists.md"
    code = page.read_text().split("```python\n")[-1].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    for number in range(10):
        draw(tmp_path / "png" / f"{number}.png")
    rows = "".join(f"{number}.png,p{number},{number % 2}\n" for number in range(10))
    (tmp_path / "ward.csv").write_text("file,patient,effusion\n" + rows)
    monkeypatch.setitem(DATALISTS, "ward", names["ward"])
    assert main(["datalist", "ward", "--root", str(tmp_path), "--output_file", str(tmp_path / "list.json")]) == 0
    assert {name: len(part) for name, part in read_datalist(tmp_path / "list.json", tmp_path).items()} == {
        "training": 7,
        "validation": 1,
        "test": 2,
    }
