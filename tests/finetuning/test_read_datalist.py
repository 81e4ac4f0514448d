from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msdino_monai.errors import UserError
from msdino_monai.finetuning import few_labels, read_datalist
from msdino_monai.images.cohort import FINDINGS, write_cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png", "mask.png"):
        (tmp_path / name).write_bytes(b"an image")
    return tmp_path


def write(folder: Path, content: Any, name: str = "datalist.json") -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def sections(**items: Any) -> dict[str, Any]:
    """One item per section, those named replaced."""
    good = {"training": "a", "validation": "b", "test": "c"}
    return {name: [{"image": f"{image}.png", "label": [0, 1]}] for name, image in good.items()} | items


def test_images_become_absolute_and_labels_stay(folder: Path) -> None:
    test = [{"image": "c.png", "label": [1, -1], "patient": 7, "age": 80}]
    path = write(folder, sections(test=test))
    assert read_datalist(path, folder) == {
        "training": [{"image": str(folder / "a.png"), "label": [0, 1]}],
        "validation": [{"image": str(folder / "b.png"), "label": [0, 1]}],
        "test": [{"image": str(folder / "c.png"), "label": [1, -1], "patient": "7"}],
    }


def test_mask_paths_become_absolute(folder: Path) -> None:
    path = write(folder, {"training": [{"image": "a.png", "outline": "mask.png"}]})
    items = read_datalist(path, folder, label_key="outline", sections=["training"])
    assert items == {"training": [{"image": str(folder / "a.png"), "label": str(folder / "mask.png")}]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(str(folder), sites=1, patients_per_site=10, image_size=64)
    return folder / "site_a"


def test_synthetic_site_serves_classification(site: Path) -> None:
    items = read_datalist(None, site)
    assert items.keys() == {"training", "validation", "test"}
    assert all(len(item["label"]) == len(FINDINGS) and item["patient"] for item in items["training"])
    assert few_labels(items["training"], 0.5)


@pytest.mark.parametrize("key", ["lungs", "lesions"])
def test_synthetic_site_serves_segmentation(site: Path, key: str) -> None:
    for part in read_datalist(site / "datalist.json", site, label_key=key).values():
        assert all(item["label"].endswith(f"_{key}.png") and Path(item["label"]).is_file() for item in part)


def test_relative_folder_gives_absolute_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, sections())
    monkeypatch.chdir(folder)
    assert read_datalist(None, ".")["test"][0]["image"] == str(folder / "c.png")


def test_byte_order_mark_is_no_obstacle(folder: Path) -> None:
    path = folder / "list.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sections()).encode())
    assert len(read_datalist(path, folder)) == 3


def test_missing_files_are_counted_and_named(folder: Path) -> None:
    training = [{"image": f"gone_{n}.png", "label": [0, 1]} for n in range(7)]
    path = write(folder, sections(training=training))
    with pytest.raises(UserError, match=r"7 of 9 files .* \(gone_0.png, gone_1.png, .*, gone_4.png, \.\.\.\)"):
        read_datalist(path, folder)


def test_sections_that_are_not_needed_may_be_broken(folder: Path) -> None:
    path = write(folder, {"training": [{"image": "gone.png"}], "test": [{"image": "c.png", "label": [1]}]})
    assert len(read_datalist(path, folder, sections=["test"])["test"]) == 1


@pytest.mark.parametrize("image", ["../a.png", "/etc/a.png", "x/../../a.png"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_paths_out_of_the_folder_are_refused(folder: Path, image: str, key: str) -> None:
    path = write(folder, {"training": [{"image": "a.png", "label": "mask.png"} | {key: image}]})
    with pytest.raises(UserError, match="reaches outside dataset_dir"):
        read_datalist(path, folder, sections=["training"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is no object"),
        ({"training": []}, "has no training and no validation and no test entries"),
        (sections(test=[]), "has no test entries"),
        (sections(test={"image": "c.png"}), "test: not a list"),
        (sections(test=["c.png"]), "test, item 1: names no image"),
        (sections(test=[{"image": 3, "label": [0, 1]}]), "test, item 1: names no image"),
        (sections(test=[{"image": "c.png", "lungs": "mask.png"}]), "no key 'label' but lungs"),
        (sections(test=[{"image": "c.png", "label": None}]), "label is None"),
        (sections(test=[{"image": "c.png", "label": [0, 2]}]), r"label is \[0, 2\]"),
        (sections(test=[{"image": "c.png", "label": []}]), r"label is \[\]"),
        (sections(test=[{"image": "c.png", "label": [0, float("nan")]}]), r"label is \[0, nan\]"),
        (sections(test=[{"image": "c.png", "label": [0, 1, 1]}]), "mixes labels: 2 numbers, 3 numbers"),
        (sections(test=[{"image": "c.png", "label": "mask.png"}]), "mixes labels: 2 numbers, a path"),
        (sections(classes=["one"]), "names 1 classes but labels have 2 numbers"),
        (sections(labels=["one", "two", "three"]), "names 3 classes but labels have 2 numbers"),
    ],
)
def test_unusable_datalist_is_one_clear_line(folder: Path, content: Any, message: str) -> None:
    path = write(folder, content)
    with pytest.raises(UserError, match=message) as caught:
        read_datalist(path, folder)
    assert "\n" not in str(caught.value)


def test_patient_in_two_sections_is_refused(folder: Path) -> None:
    both = {name: [{"image": f"{name[0]}.png", "label": [1], "patient": "p1"}] for name in ("training", "test")}
    for asked in (["training", "test"], ["training"], ["test"]):  # training asks for one, evaluation for another
        with pytest.raises(UserError, match="patient p1 in both training and test"):
            read_datalist(write(folder, both), folder, sections=asked)


def test_patient_may_be_number_zero(folder: Path) -> None:
    path = write(folder, {"training": [{"image": "a.png", "label": [1], "patient": 0}]})
    assert read_datalist(path, folder, sections=["training"])["training"][0]["patient"] == "0"


def test_absent_datalist_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no datalist .*datalist.json; .*python -m msdino_monai datalist"):
        read_datalist(None, tmp_path)


def test_dataset_dir_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_datalist(None, tmp_path / "nowhere")
