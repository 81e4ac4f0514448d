from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from public_data import patients, read

from msdino_monai.errors import UserError
from msdino_monai.finetuning import read_datalist
from msdino_monai.finetuning.datalists.siim import siim

SICK, TWO_REGIONS, HEALTHY = "1.2.276.0.1", "1.2.276.0.2", "1.2.276.0.3"
OTHERS = [f"1.2.276.0.{number}" for number in range(4, 13)]
ROWS = [
    (SICK, " 2 3 5 1"),
    (TWO_REGIONS, " 0 2"),
    (TWO_REGIONS, " 90 4"),
    (TWO_REGIONS, " 90 4"),
    (HEALTHY, " -1"),
    *((name, " -1") for name in OTHERS),
]


@pytest.fixture
def root(tmp_path: Path, write_dicom: Callable[..., Path]) -> Path:
    """12 images of 10 x 12 pixels; the first two are of one patient."""
    people: Mapping[str, str] = {SICK: "p1", TWO_REGIONS: "p1"}
    for name, _ in dict(ROWS).items():
        place = Path("siim", "dicom-images-train", f"{name}.study", f"{name}.series", f"{name}.dcm")
        (tmp_path / place).parent.mkdir(parents=True)
        write_dicom(np.zeros((10, 12), dtype=np.uint16), str(place), PatientID=people.get(name, f"id {name}"))
    table = "ImageId, EncodedPixels\r\n" + "".join(f"{name},{code}\r\n" for name, code in ROWS)
    (tmp_path / "siim" / "train-rle.csv").write_bytes(table.encode())
    return tmp_path / "siim"


def flat(root: Path, name: str) -> list[int]:
    """Where a mask is 1, down the columns."""
    with Image.open(root / f"list_masks/{name}_pneumothorax.png") as picture:
        mask = np.asarray(picture)
    assert mask.shape == (10, 12)
    assert set(np.unique(mask)) <= {0, 1}
    return np.nonzero(mask.T.reshape(-1))[0].tolist()


def test_regions_of_an_image_are_drawn_into_one_mask(root: Path) -> None:
    assert siim(str(root), str(root / "list.json")) == 0
    assert flat(root, SICK) == [2, 3, 4, 10]
    assert flat(root, TWO_REGIONS) == [0, 1, 90, 91, 92, 93]
    assert flat(root, HEALTHY) == []


def test_datalist_names_masks_patients_and_pneumothorax(root: Path) -> None:
    siim(str(root), str(root / "list.json"))
    content = read(root / "list.json")
    assert content["classes"] == ["pneumothorax"]
    items = {Path(item["image"]).stem: item for part in ("training", "validation", "test") for item in content[part]}
    assert items[SICK] == {
        "image": f"dicom-images-train/{SICK}.study/{SICK}.series/{SICK}.dcm",
        "label": f"list_masks/{SICK}_pneumothorax.png",
        "pneumothorax": [1],
        "patient": "p1",
    }
    assert items[HEALTHY]["pneumothorax"] == [0]
    who = patients(content)
    assert len(set().union(*who.values())) == sum(map(len, who.values()))  # nobody is in two sections
    assert [len(who[part]) for part in ("training", "validation", "test")] == [8, 1, 2]
    masks = read_datalist(root / "list.json", root)
    numbers = read_datalist(root / "list.json", root, label_key="pneumothorax")
    assert masks["test"][0]["label"] == str(root / content["test"][0]["label"])
    assert numbers["test"][0]["label"] == content["test"][0]["pneumothorax"]


def test_absolute_starts_are_decoded_when_asked_for(root: Path) -> None:
    (root / "train-rle.csv").write_text(f"ImageId,EncodedPixels\n{SICK},3 3 11 1\n{HEALTHY},-1\n{OTHERS[0]},-1\n")
    assert siim(str(root), str(root / "list.json"), rle="absolute") == 0
    assert flat(root, SICK) == [2, 3, 4, 10]


def test_wrong_kind_of_starts_is_told_with_the_image(root: Path) -> None:
    (root / "train-rle.csv").write_text(f"ImageId,EncodedPixels\n{SICK},40 3 51 1 60 20\n{HEALTHY},-1\n")
    with pytest.raises(UserError, match=f"{SICK}: .* is it --rle absolute"):
        siim(str(root), str(root / "list.json"))


def test_masks_outside_the_root_are_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"outside --root .* give --masks_dir"):
        siim(str(root), str(tmp_path / "list.json"))
    with pytest.raises(UserError, match="outside --root"):
        siim(str(root), str(root / "list.json"), masks_dir=str(root / ".." / "masks"))
    assert not list(tmp_path.rglob("*_pneumothorax.png"))
    assert siim(str(root), str(tmp_path / "list.json"), masks_dir=str(root / "drawn")) == 0
    assert read(tmp_path / "list.json")["test"][0]["label"].startswith("drawn/")


def test_read_only_data_can_be_linked_into_a_new_root(root: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "siim").symlink_to(root)
    assert siim(str(new), str(new / "list.json")) == 0
    item = read_datalist(new / "list.json", new)["training"][0]
    assert item["image"].startswith(str(new / "siim" / "dicom-images-train"))
    assert item["label"].startswith(str(new / "list_masks"))
    assert not list(root.rglob("*.png"))


def test_missing_unreadable_and_unannotated_images_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {path.stem: path for path in root.rglob("*.dcm")}
    images[SICK].unlink()
    images[HEALTHY].write_bytes(b"not DICOM")
    table = root / "train-rle.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if OTHERS[-1] not in line))
    assert siim(str(root), str(root / "list.json")) == 3
    shown = capsys.readouterr().out
    assert f"1 DICOM files have no row in the table and are left out ({OTHERS[-1]})" in shown
    assert "2 missing and left out" in shown
    first, second = (root / "list.missing.txt").read_text().splitlines()
    assert first == f"{SICK}.dcm"
    assert second.startswith(f"dicom-images-train/{HEALTHY}.study/{HEALTHY}.series/{HEALTHY}.dcm (Invalid")


def test_nobody_readable_is_an_error(root: Path) -> None:
    for path in root.rglob("*.dcm"):
        path.write_bytes(b"not DICOM")
    with pytest.raises(UserError, match="none of 12 images can be used, such as dicom-images-train"):
        siim(str(root), str(root / "list.json"))
    assert not (root / "list.json").exists()


def test_image_without_a_patient_is_its_own(root: Path, write_dicom: Callable[..., Path]) -> None:
    place = next(root.rglob(f"{SICK}.dcm"))
    write_dicom(np.zeros((10, 12), dtype=np.uint16), str(place), PatientID="")
    siim(str(root), str(root / "list.json"))
    assert SICK in set().union(*patients(read(root / "list.json")).values())


def test_second_stage_layout_is_read(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    (tmp_path / "stage_2_images").mkdir()
    names = ["ID_a", "ID_b", "ID_c", "ID_d"]
    for name in names:
        write_dicom(np.zeros((10, 12), dtype=np.uint16), f"stage_2_images/{name}.dcm", PatientID=name)
    (tmp_path / "stage_2_train.csv").write_text("ImageId,EncodedPixels\n" + "".join(f"{name},-1\n" for name in names))
    assert siim(str(tmp_path), str(tmp_path / "list.json")) == 0
    assert sum(map(len, patients(read(tmp_path / "list.json")).values())) == 4


def test_wrong_root_is_told_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected train-rle.csv .*; found nothing\."):
        siim(str(tmp_path), str(tmp_path / "list.json"))
