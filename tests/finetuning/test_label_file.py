from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.transforms import Compose
from torch.utils.data import DataLoader

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification import CurrentCalibration, LabelledData, Probabilitiesd, ReadLabeld
from msdino_monai.finetuning.classification.calibration import Calibration
from msdino_monai.finetuning.datalist import read_datalist
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.quarantine import Quarantine

CLASSES = ("Effusion", "nodule", "mass")


def read(content: str, folder: Path, task: str = "multi_label") -> object:
    path = folder / "label.json"
    path.write_text(content)
    return ReadLabeld("label", CLASSES, task)({"label": str(path)})["label"]


def test_label_file_says_what_is_there_and_the_rest_is_unknown(tmp_path: Path) -> None:
    assert read('{"effusion": 1, "mass": 0}', tmp_path) == [1, -1, 0]


def test_answer_of_monai_label_is_a_label_file(tmp_path: Path) -> None:
    scores = [{"idx": 1, "label": "nodule", "score": 0.25}, {"idx": 0, "label": "effusion", "score": 1.0}]
    assert read(json.dumps({"prediction": scores}), tmp_path) == [1, 0.25, -1]


@pytest.mark.parametrize(("content", "number"), [('{"nodule": 1}', 1), ('{"mass": 0.6, "nodule": 0.4}', 2), ("{}", -1)])
def test_one_class_of_several_is_the_likeliest(content: str, number: int, tmp_path: Path) -> None:
    assert read(content, tmp_path, "multi_class") == number


def test_numbers_stay_as_they_are() -> None:
    assert ReadLabeld("label", CLASSES, "multi_label")({"label": [0, 1, -1]})["label"] == [0, 1, -1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fracture": 1}', "names 'fracture'; the classes are effusion, nodule, mass"),
        ('{"nodule": 2}', "give 0 to 1"),
        ('{"nodule": "yes"}', "cannot be read"),
        ("[1, 0]", "cannot be read"),
        ("\x89PNG", "cannot be read"),
    ],
)
def test_other_labels_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(content, tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reason_comes_through_transforms_and_loader_workers(num_workers: int, tmp_path: Path) -> None:
    (tmp_path / "label.json").write_text('{"fracture": 1}')
    step = Compose([ReadLabeld("label", CLASSES, "multi_label")])
    items = [{"image": "1.png", "label": str(tmp_path / "label.json")}]
    images = UsableImages(items, step, tmp_path, Quarantine(tmp_path / "notes"))
    with pytest.raises(UserError, match="names 'fracture'"):
        list(DataLoader(images, num_workers=num_workers))


def test_missing_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        ReadLabeld("label", CLASSES, "multi_label")({"label": str(tmp_path / "nowhere.json")})


def test_probabilities_follow_a_calibration_that_is_renewed(tmp_path: Path) -> None:
    model, logits = tmp_path / "model.pt", torch.tensor([2.0, -1.0, 0.0])
    step = Probabilitiesd("pred", CurrentCalibration(model, "multi_label", CLASSES))
    torch.testing.assert_close(step({"pred": logits})["pred"], logits.sigmoid())
    Calibration("multi_label", CLASSES, 4.0, (0.5, 0.5, 0.5)).save(model)
    torch.testing.assert_close(step({"pred": logits})["pred"], (logits / 4).sigmoid())


def test_images_that_a_program_names_bring_their_labels_themselves() -> None:
    data = LabelledData(None, None, classes=CLASSES)
    assert data.classes == CLASSES
    assert data.labels("training").shape == (0, 3)
    with pytest.raises(UserError, match="missing --dataset_dir"):
        data.absolute_items("training")


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_no_folder_is_said_to_be_missing(nothing: str | None) -> None:
    with pytest.raises(UserError, match="missing --dataset_dir"):
        read_datalist(None, nothing)
