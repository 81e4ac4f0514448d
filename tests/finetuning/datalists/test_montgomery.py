from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from public_data import draw, patients, read, write_montgomery

from msdino_monai.errors import UserError
from msdino_monai.finetuning import read_datalist
from msdino_monai.finetuning.datalists.montgomery import montgomery

NAMES = [f"MCUCXR_{number:04d}_{int(number > 6)}" for number in range(1, 13)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_montgomery(tmp_path / "MontgomerySet", NAMES)


def mask_of(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("left_on_pictures_right", [True, False])
def test_right_lung_is_the_one_on_the_pictures_left(
    tmp_path: Path, left_on_pictures_right: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_montgomery(tmp_path / "set", NAMES, left_on_pictures_right)
    assert montgomery(str(root), str(root / "list.json")) == 0
    for part in read_datalist(root / "list.json", root).values():
        for item in part:
            mask = mask_of(item["label"])
            assert mask.shape == (12, 20)
            assert np.unique(mask).tolist() == [0, 1, 2]
            assert np.argwhere(mask == 1)[:, 1].max() < 10 < np.argwhere(mask == 2)[:, 1].min()
    told = "12 leftMask files lie on the picture's left" in capsys.readouterr().out
    assert told is not left_on_pictures_right


def test_tuberculosis_is_the_last_digit_and_shared_out_evenly(root: Path) -> None:
    montgomery(str(root), str(root / "list.json"), validation_share=0.17, test_share=0.33)
    content = read(root / "list.json")
    assert content["classes"] == ["right_lung", "left_lung"]
    for part, count in {"training": 6, "validation": 2, "test": 4}.items():
        assert len(content[part]) == count
        assert sum(item["tuberculosis"][0] for item in content[part]) == count / 2
        assert all(item["tuberculosis"] == [int(Path(item["image"]).stem[-1])] for item in content[part])
    who = patients(content)
    assert who["training"] | who["validation"] | who["test"] == {name[:-2] for name in NAMES}


def test_classification_and_segmentation_read_the_same_list(root: Path) -> None:
    montgomery(str(root), str(root / "list.json"))
    sick = read_datalist(root / "list.json", root, label_key="tuberculosis")["training"]
    lungs = read_datalist(root / "list.json", root)["training"]
    assert [item["image"] for item in sick] == [item["image"] for item in lungs]
    assert {item["label"][0] for item in sick} == {0, 1}


def test_split_follows_the_seed(root: Path) -> None:
    def split(seed: int) -> dict[str, set[str]]:
        montgomery(str(root), str(root / "list.json"), seed=seed)
        return patients(read(root / "list.json"))

    assert split(0) == split(0)
    assert any(split(seed) != split(0) for seed in (1, 2, 3))


def test_what_lacks_its_other_half_is_left_out_and_listed(root: Path) -> None:
    (root / "ManualMask/leftMask" / f"{NAMES[0]}.png").unlink()
    (root / "CXR_png" / f"{NAMES[1]}.png").unlink()
    draw(root / "ManualMask/rightMask" / f"{NAMES[2]}.png", np.zeros((6, 6), dtype=np.uint8))
    draw(root / "CXR_png" / "contact sheet.png")
    (root / "CXR_png" / f"._{NAMES[3]}.png").write_bytes(b"left by a Mac")
    (root / "CXR_png" / "Thumbs.db").touch()
    assert montgomery(str(root), str(root / "list.json")) == 3
    first, second, third, sheet = (root / "list.missing.txt").read_text().splitlines()
    assert sheet == "CXR_png/contact sheet.png (the name does not end in _0 or _1)"
    assert first == f"CXR_png/{NAMES[0]}.png (ValueError: no leftMask/{NAMES[0]}.png)"
    assert second == f"CXR_png/{NAMES[1]}.png"
    assert "rightMask is 6 x 6, the image 12 x 20 pixels" in third
    assert sum(map(len, patients(read(root / "list.json")).values())) == 9


def test_empty_lung_mask_goes_by_its_folders_name(root: Path) -> None:
    draw(root / "ManualMask/leftMask" / f"{NAMES[0]}.png", np.zeros((12, 20), dtype=np.uint8))
    montgomery(str(root), str(root / "list.json"))
    assert np.unique(mask_of(root / f"list_masks/{NAMES[0]}_lungs.png")).tolist() == [0, 1]


def test_originals_are_never_written_over(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    montgomery(str(root), str(root / "list.json"), masks_dir=str(root / "ManualMask/leftMask"))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_same_input_gives_the_same_masks_and_list(root: Path) -> None:
    def everything() -> dict[str, bytes]:
        montgomery(str(root), str(root / "list.json"))
        return {path.name: path.read_bytes() for path in [root / "list.json", *root.glob("list_masks/*")]}

    first = everything()
    assert len(first) == 13
    assert everything() == first


def test_too_few_patients_for_the_shares_are_told(tmp_path: Path) -> None:
    root = write_montgomery(tmp_path / "set", NAMES[:2])
    with pytest.raises(UserError, match="2 patients are too few to take 1 for validation, 1 for test"):
        montgomery(str(root), str(root / "list.json"))
    assert montgomery(str(root), str(root / "list.json"), validation_share=0, test_share=0) == 0


def test_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "CXR_png").mkdir()
    with pytest.raises(UserError, match=r"no PNG images in .*; expected CXR_png/\*.png"):
        montgomery(str(tmp_path), str(tmp_path / "list.json"))
