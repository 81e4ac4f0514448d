from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msdino_monai.finetuning.segmentation.evaluation import _extremes, in_words, summarise
from msdino_monai.finetuning.segmentation.overlay import draw_overlay
from msdino_monai.images.transforms import LoadRadiograph


def row(file: str, label: str, dice: float, **more: Any) -> dict[str, Any]:
    base = {"hd95": math.nan, "surface_distance": math.nan, "truth_pixels": 5, "predicted_pixels": 5}
    counts = {"lesions": 0, "found": 0, "false_alarms": 0, "unit": "mm", "patient": file[0]}
    return {"file": file, "class": label, "dice": dice, **base, **counts, **more}


ROWS = [
    row("a1", "x", 1.0, hd95=2.0, lesions=2, found=1),
    row("a1", "y", math.nan, truth_pixels=0, predicted_pixels=0),
    row("b1", "x", 0.0, predicted_pixels=0, lesions=2),
    row("b1", "y", math.nan, truth_pixels=0, predicted_pixels=0),
    row("c1", "x", 0.5, hd95=4.0, false_alarms=3),
    row("c1", "y", math.nan, truth_pixels=0, predicted_pixels=0),
]


def test_summary_counts_what_its_means_leave_out() -> None:
    summary = summarise(ROWS, ["x", "y"], repeats=200)
    found, nowhere = summary["classes"]["x"], summary["classes"]["y"]
    assert found["dice"]["value"] == pytest.approx(0.5)
    assert (found["cases"], found["absent"], found["missed"], found["false"]) == (3, 0, 1, 0)
    assert found["hd95_mm"]["value"] == pytest.approx(3.0)
    assert found["lesion_sensitivity"]["value"] == pytest.approx(0.25)
    assert found["false_alarms_per_image"] == pytest.approx(1.0)
    assert nowhere["dice"] == {"value": None, "interval": None}
    assert nowhere["lesion_sensitivity"]["value"] is None
    assert (nowhere["cases"], nowhere["absent"]) == (0, 3)
    assert summary["mean_dice"]["value"] == pytest.approx(0.5)
    assert "hd95_pixels" not in found


def test_intervals_hold_the_value_and_come_from_the_seed() -> None:
    rows = [row(f"{chr(97 + number)}1", "x", 0.5 + 0.02 * number) for number in range(20)]
    first, again = (summarise(rows, ["x"], repeats=300, seed=seed)["mean_dice"] for seed in (4, 4))
    low, high = first["interval"]
    assert low < first["value"] < high
    assert first == again
    assert summarise(rows, ["x"], repeats=300, seed=5)["mean_dice"]["interval"] != first["interval"]


def test_patients_are_drawn_not_images() -> None:
    """Ten copies of each patient's image must not make the interval narrower."""
    rows = [row(f"{name}1", "x", dice) for name, dice in zip("abcdefgh", np.linspace(0.2, 0.9, 8), strict=True)]
    copies = [{**each, "file": f"{each['file']}_{copy}"} for each in rows for copy in range(10)]
    few, many = (summarise(each, ["x"], repeats=500)["mean_dice"]["interval"] for each in (rows, copies))
    assert many == pytest.approx(few, abs=0.05)


def test_distances_of_different_units_are_not_mixed() -> None:
    rows = [row("a1", "x", 0.5, hd95=2.0), row("b1", "x", 0.5, hd95=90.0, unit="pixels")]
    found = summarise(rows, ["x"], repeats=50)["classes"]["x"]
    assert found["hd95_mm"]["value"] == 2.0
    assert found["hd95_pixels"]["value"] == 90.0


def test_words_say_what_is_undefined() -> None:
    words = in_words(summarise(ROWS, ["x", "y"], repeats=50))
    assert words.startswith("Dice over 3 cases: 0.500 (")
    assert words.endswith("y undefined")


def test_extremes_are_cases_that_have_something() -> None:
    extremes = _extremes([*ROWS, row("d1", "x", math.nan)])
    assert {name: found[0]["file"] for name, found in extremes.items()} == {"worst": "b1", "median": "c1", "best": "a1"}
    assert _extremes([row("d1", "x", math.nan)]) == {}


def test_overlay_draws_truth_as_line_and_prediction_as_tint(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    image = write_dicom(picture)
    truth, predicted = np.zeros((1, 96, 80), dtype=bool), np.zeros((1, 96, 80), dtype=bool)
    truth[0, 10:40, 10:60] = True
    predicted[0, 50:90, 10:60] = True
    path = tmp_path / "overlay.png"
    path.write_bytes(draw_overlay(LoadRadiograph(64), image, predicted, truth, ("x",), "best case: ä.dcm, Dice 0.5"))
    with Image.open(path) as drawn:
        colours = np.asarray(drawn.convert("RGB")).astype(int)
    assert colours.shape == (512 + 28, 512, 3)
    scale, left, top = 512 / 96, (512 - 80 * 512 / 96) / 2, 14
    line = colours[top + round(10 * scale) + 1, round(left + 35 * scale)]
    assert line.tolist() == [230, 159, 0]
    inside, tinted = (colours[top + round(r * scale), round(left + 35 * scale)] for r in (25, 70))
    assert inside[0] == inside[2]  # grey: the truth is an outline
    assert tinted[0] > tinted[2]
