from __future__ import annotations

from pathlib import Path

import pytest
from public_data import patients, read, write_nih14

from msdino_monai.errors import UserError
from msdino_monai.finetuning import read_datalist
from msdino_monai.finetuning.datalists.nih14 import FINDINGS, nih14

ROWS = {
    "00000001_000.png": "Cardiomegaly",
    "00000001_001.png": "Cardiomegaly|Emphysema",
    "00000002_000.png": "No Finding",
    "00000003_000.png": "Pleural_Thickening|Hernia",
    "00000004_000.png": "No Finding",
    "00000005_000.png": "Effusion",
    "00000006_000.png": "Effusion|Mass",
    "00000006_001.png": "No Finding",
}
TEST = ["00000006_000.png", "00000006_001.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_nih14(tmp_path / "nih", ROWS, TEST)


def test_findings_become_a_multi_hot_label(root: Path, tmp_path: Path) -> None:
    assert nih14(str(root), str(tmp_path / "list.json")) == 0
    content = read(tmp_path / "list.json")
    assert content["classes"] == list(FINDINGS)
    items = {Path(item["image"]).name: item for part in ("training", "validation", "test") for item in content[part]}
    assert len(items) == len(ROWS)
    named = {
        name: "|".join(sorted(f for f, v in zip(FINDINGS, item["label"], strict=True) if v))
        for name, item in items.items()
    }
    assert named == {
        name: "" if text == "No Finding" else "|".join(sorted(text.split("|"))) for name, text in ROWS.items()
    }
    assert items["00000001_001.png"]["image"] == "images_002/images/00000001_001.png"
    assert items["00000001_001.png"]["patient"] == "1"


def test_official_test_list_is_kept_and_validation_comes_from_training(root: Path, tmp_path: Path) -> None:
    nih14(str(root), str(tmp_path / "list.json"), validation_share=0.4)
    who = patients(read(tmp_path / "list.json"))
    assert who["test"] == {"6"}
    assert who["training"] | who["validation"] == {"1", "2", "3", "4", "5"}
    assert len(who["validation"]) == 2
    assert not who["training"] & who["validation"]


def test_same_input_gives_same_bytes_whatever_the_order_of_rows(root: Path, tmp_path: Path) -> None:
    nih14(str(root), str(tmp_path / "first.json"))
    table = root / "Data_Entry_2017.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(lines), lines[0]]) + "\n")
    nih14(str(root), str(tmp_path / "second.json"))
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()


def test_windows_line_endings_and_a_byte_order_mark_change_nothing(root: Path, tmp_path: Path) -> None:
    nih14(str(root), str(tmp_path / "plain.json"))
    windows = write_nih14(tmp_path / "windows", ROWS, TEST, ending="\r\n", table="Data_Entry_2017_v2020.csv")
    for path in [*windows.glob("*.csv"), *windows.glob("*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    nih14(str(windows), str(tmp_path / "windows.json"))
    assert (tmp_path / "plain.json").read_bytes() == (tmp_path / "windows.json").read_bytes()


def test_missing_images_are_left_out_listed_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete = tmp_path / "list.json"
    nih14(str(root), str(complete))
    before = read(complete)
    (root / "images_001/images/00000001_000.png").unlink()
    (root / "images_006/images/00000005_000.png").unlink()
    capsys.readouterr()
    assert nih14(str(root), str(complete)) == 3
    assert "2 missing and left out (00000001_000.png, 00000005_000.png)" in capsys.readouterr().out
    assert (tmp_path / "list.missing.txt").read_text().split() == ["00000001_000.png", "00000005_000.png"]
    after = read(complete)
    for part in ("training", "validation", "test"):
        gone = ("00000001_000.png", "00000005_000.png")
        assert after[part] == [item for item in before[part] if not item["image"].endswith(gone)]


def test_list_of_missing_images_goes_when_nothing_is_missing(root: Path, tmp_path: Path) -> None:
    image = root / "images_001/images/00000001_000.png"
    image.rename(tmp_path / "aside.png")
    assert nih14(str(root), str(tmp_path / "list.json")) == 3
    (tmp_path / "aside.png").rename(image)
    assert nih14(str(root), str(tmp_path / "list.json")) == 0
    assert not (tmp_path / "list.missing.txt").exists()


def test_images_in_one_folder_and_a_folder_round_it_all_are_found(tmp_path: Path) -> None:
    root = write_nih14(tmp_path / "data" / "CXR8", ROWS, TEST)
    (root / "images").mkdir()
    for image in list(root.glob("images_*/images/*.png")):
        image.rename(root / "images" / image.name)
    assert nih14(str(tmp_path / "data"), str(tmp_path / "list.json"), validation_share=0.2) == 0
    items = read_datalist(tmp_path / "list.json", tmp_path / "data")
    assert sum(map(len, items.values())) == len(ROWS)
    assert items["test"][0]["image"] == str(root / "images" / "00000006_000.png")


def test_row_without_findings_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_nih14(tmp_path / "nih", {**ROWS, "00000007_000.png": ""}, [*TEST, "00000007_000.png"])
    nih14(str(root), str(tmp_path / "list.json"))
    assert read(tmp_path / "list.json")["test"][-1]["label"] == [-1] * 14
    assert "(1 unknown)" in capsys.readouterr().out


def test_images_in_no_official_list_are_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "test_list.txt").write_text("00000006_000.png\n00000099_000.png\n")
    nih14(str(root), str(tmp_path / "list.json"))
    shown = capsys.readouterr().out
    assert "1 images of Data_Entry_2017.csv are in no official list and left out (00000006_001.png)" in shown
    assert "1 images of the official lists have no row in Data_Entry_2017.csv (00000099_000.png)" in shown


def test_lists_that_share_a_patient_are_refused(root: Path, tmp_path: Path) -> None:
    train = root / "train_val_list.txt"
    train.write_text(train.read_text() + "\n00000006_001.png\n")
    (root / "test_list.txt").write_text("00000006_000.png\n")
    with pytest.raises(UserError, match="patient 6 in both"):
        nih14(str(root), str(tmp_path / "list.json"))
    assert not (tmp_path / "list.json").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000001_000.png,Mass,0,1,58,M,PA,1,1,1,1,", "two rows for 00000001_000.png that disagree"),
        ("00000009_000.png,Masses,0,9,58,M,PA,1,1,1,1,", "has the finding 'Masses'"),
        ("00000009_000.png", "the row is cut short"),
    ],
)
def test_damaged_table_is_refused(root: Path, tmp_path: Path, row: str, message: str) -> None:
    with (root / "Data_Entry_2017.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(UserError, match=message):
        nih14(str(root), str(tmp_path / "list.json"))


def test_root_of_another_layout_is_told_what_was_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"expected Data_Entry_2017.csv .*; found notes.txt, photos/\."):
        nih14(str(tmp_path), str(tmp_path / "out" / "list.json"))
    assert not (tmp_path / "out").exists()


def test_tables_without_any_image_are_refused(root: Path, tmp_path: Path) -> None:
    for image in root.glob("*/images/*.png"):
        image.unlink()
    with pytest.raises(UserError, match="none of the 8 images that nih14 names is there; expected"):
        nih14(str(root), str(tmp_path / "list.json"))
