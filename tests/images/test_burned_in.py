from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from msdino_monai.__main__ import main
from msdino_monai.images.burned_in import shows_text
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import read_radiograph


def scene(seed: int = 0, size: int = 1024) -> np.ndarray:
    """Smooth, noisy, with a saturated area, as exposures are."""
    noise = np.random.default_rng(seed).normal(0, 20, (size, size))
    rows, columns = np.mgrid[0:size, 0:size] / size
    return np.clip(4500 * rows * columns + 200 + noise, 0, 4095).astype(np.uint16)


def draw(pixels: np.ndarray, text: str, height: int, value: int) -> np.ndarray:
    mask = Image.new("1", pixels.shape[::-1])
    ImageDraw.Draw(mask).text((30, 40), text, fill=1, font=ImageFont.load_default(height))
    return np.where(np.asarray(mask), value, pixels).astype(pixels.dtype)


@pytest.mark.parametrize("height", [14, 20, 32, 48])
@pytest.mark.parametrize("value", [0, 65535])
def test_drawn_names_are_flagged(height: int, value: int) -> None:
    assert shows_text(draw(scene(), "DOE^JANE 1961-02-03", height, value))


@pytest.mark.parametrize("seed", range(5))
def test_exposures_without_writing_are_not_flagged(seed: int) -> None:
    assert not shows_text(scene(seed))


def test_lead_markers_are_not_flagged() -> None:
    assert not shows_text(draw(scene(), "R", 60, 65535))
    assert not shows_text(draw(scene(), "L PA", 40, 65535))


def test_speckle_is_not_flagged() -> None:
    pixels = scene()
    pixels[np.random.default_rng(1).random(pixels.shape) < 0.01] = 65535
    assert not shows_text(pixels)


def test_real_radiographs_are_not_flagged(pydicom_files: list[Path]) -> None:
    for name in ("RG1_UNCR.dcm", "RG3_UNCR.dcm"):
        assert not read_radiograph(next(p for p in pydicom_files if p.name == name)).flags


def test_survey_flags_burned_in_text(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    write_dicom(draw(scene(), "DOE JANE 12345", 24, 4095))
    assert main(["survey", "--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 0
    assert [row["file"] for row in Quarantine(tmp_path / "out").suspicious()] == ["image.dcm"]
