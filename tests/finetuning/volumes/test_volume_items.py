from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.finetuning.volumes import WindowVolumed, base_checkpoint, find_volumes, volume_sections
from msdino_monai.finetuning.volumes.schedule import warmup_polynomial


def write(folder: Path, content: Any) -> Path:
    (folder / "series").mkdir(parents=True, exist_ok=True)
    for name in ("a.nii.gz", "m.nii.gz", "series/1.dcm"):
        (folder / name).write_bytes(b"x")
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def test_images_are_files_or_folders(tmp_path: Path) -> None:
    items = [{"image": "a.nii.gz", "label": "m.nii.gz"}, {"image": "series", "label": "m.nii.gz", "patient": 0}]
    found = volume_sections(None, write(tmp_path, {"training": items}), "label", ("training",))
    assert [item["image"] for item in found["training"]] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "series")]
    assert [item["patient"] for item in found["training"]] == ["", "0"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"training": []}, "has no training entries"),
        ({"training": {"a": 1}}, "not a list"),
        ([1], "is no object"),
        ({"training": [{"label": "m.nii.gz"}]}, "names no image"),
        ({"training": [{"image": "a.nii.gz", "mask": "m"}]}, "label is no mask's path, there is mask"),
        ({"training": [{"image": "a.nii.gz", "label": [1]}]}, "label is no mask's path"),
        ({"training": [{"image": "../a.nii.gz", "label": "m.nii.gz"}]}, "reaches outside"),
        ({"training": [{"image": "b.nii.gz", "label": "m.nii.gz"}]}, "1 of 2 volumes and masks"),
    ],
)
def test_bad_datalists_are_one_line(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as raised:
        volume_sections(None, write(tmp_path, content), "label", ("training",))
    assert "\n" not in str(raised.value)


def test_datalist_without_its_folder_is_refused() -> None:
    with pytest.raises(UserError, match="missing --dataset_dir"):
        volume_sections(None, None, "label", ("training",))


def test_patient_in_two_sections_is_refused(tmp_path: Path) -> None:
    item = {"image": "a.nii.gz", "label": "m.nii.gz", "patient": "p"}
    for asked in (("training", "test"), ("training",), ("test",)):
        with pytest.raises(UserError, match="patient p in both"):
            volume_sections(None, write(tmp_path, {"training": [item], "test": [item]}), "label", asked)


def test_a_folder_of_dicom_files_is_one_volume(tmp_path: Path) -> None:
    header = b"\0" * 128 + b"DICM" + b"\0" * 300
    for name in ("one/1.dcm", "one/2.dcm", "two/1", "n.nii.gz", "out/old_mask.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"unknown" if name.endswith("gz") else header)
    found = [item["image"] for item in find_volumes(tmp_path, leave_out=[tmp_path / "out"])]
    assert found == ["n.nii.gz", "one", "two"]


def test_a_datalist_without_masks_names_volumes_to_predict(tmp_path: Path) -> None:
    folder = write(tmp_path, {"test": [{"image": "a.nii.gz"}], "training": [{"image": "series", "patient": "p"}]})
    found = find_volumes(folder, str(folder / "datalist.json"))
    assert found == [{"image": "series", "patient": "p"}, {"image": "a.nii.gz", "patient": ""}]


def test_window_spreads_a_range_and_cuts_the_rest() -> None:
    image = MetaTensor(torch.tensor([-1000.0, -160, 40, 240, 3000]).reshape(1, 5, 1, 1))
    shown = WindowVolumed("image", [-160, 240])({"image": image})["image"]
    assert isinstance(shown, MetaTensor)
    assert shown.flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_percentiles_are_a_volumes_own() -> None:
    image = torch.arange(101.0).reshape(1, 101, 1, 1)
    shown = WindowVolumed("image", [-160, 240], (10, 90))({"image": image})["image"]
    torch.testing.assert_close(shown.flatten()[[5, 10, 50, 90, 95]], torch.tensor([0, 0, 0.5, 1, 1]))


def test_volume_without_contrast_is_quarantined_not_trained_on() -> None:
    for window in (WindowVolumed("image", [-160, 240]), WindowVolumed("image", [-160, 240], (1, 99))):
        with pytest.raises(RadiographError, match="nothing can be told apart"):
            window({"image": torch.full((1, 4, 4, 4), -1000.0)})


@pytest.mark.parametrize("wrong", [5, [1], [3, 3], ["a", "b"], (240, -160)])
def test_bad_windows_are_one_line(wrong: Any) -> None:
    with pytest.raises(UserError, match="--intensity_range must be two numbers"):
        WindowVolumed("image", wrong)


def test_public_weights_are_asked_for() -> None:
    with pytest.raises(UserError, match="--size vit_b needs SAM's own weights"):
        base_checkpoint("vit_b")
    assert base_checkpoint("vit_b", "random") is None
    assert base_checkpoint("tiny") is None
    assert base_checkpoint("vit_b", "sam.pth") == "sam.pth"


def test_rate_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_polynomial(optimizer, epoch_length=100, max_epochs=10, warmup_iterations=250, power=0.9)
    rates = []
    for _ in range(1000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(2 / 250)
    assert max(rates) == rates[250] == 2.0
    assert rates[625] == pytest.approx(2 * 0.5**0.9)
    assert optimizer.param_groups[0]["lr"] == 0


def test_warmup_of_a_short_training_ends() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_polynomial(optimizer, epoch_length=8, max_epochs=5, warmup_iterations=250)
    assert schedule.lr_lambdas[0](10) == 1.0
