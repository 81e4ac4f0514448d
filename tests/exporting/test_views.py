from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Compose, RandAdjustContrast, RandAffine
from PIL import Image

from msdino_monai.exporting import AugmentedViewsd, LoadPatientd
from msdino_monai.exporting.affine import RandAffinePicture
from msdino_monai.exporting.views import collate_views
from msdino_monai.images.transforms import LoadRadiographd

SETTINGS = {"rotate_range": 0.3, "translate_range": (6, 4), "scale_range": (0.2, 0.1), "shear_range": (0.1, 0.2)}


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_affine_picture_is_the_one_monai_would_draw(shape: tuple[int, int], padding_mode: str) -> None:
    affine = RandAffinePicture(prob=1.0, padding_mode=padding_mode, **SETTINGS).set_random_state(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = torch.from_numpy(np.sin(rows / 5) * np.cos(columns / 3)).float()[None]
    for _ in range(5):
        moved = affine(image)
        monais = RandAffine.__call__(affine, image, randomize=False)
        torch.testing.assert_close(moved, monais.as_tensor(), atol=1e-5, rtol=0)
        assert not torch.allclose(moved, image, atol=0.1)


def test_affine_picture_is_left_alone_as_often_as_asked() -> None:
    affine = RandAffinePicture(prob=0.5, **SETTINGS).set_random_state(0)
    image = torch.rand(1, 16, 16)
    unmoved = sum(torch.equal(affine(image), image) for _ in range(200))
    assert 70 < unmoved < 130


def test_monais_notes_come_back_even_after_a_failure() -> None:
    def fail(_: object) -> None:
        raise ValueError("on purpose")

    with pytest.raises(RuntimeError):
        AugmentedViewsd("image", fail)({"image": torch.rand(1, 8, 8)})
    assert get_track_meta()


def test_every_part_of_an_augmentation_is_drawn_afresh() -> None:
    """Two that start from one state, as in forked workers, also where compositions are nested."""
    parts = [RandAdjustContrast(prob=1, gamma=(0.5, 2)) for _ in range(2)]
    first, second = (AugmentedViewsd("image", Compose([part, Compose([part])])) for part in parts)
    for views in (first, second):
        views.augment.set_random_state(0)
    image = torch.rand(1, 16, 16)
    assert not torch.equal(first({"image": image})["image"], second({"image": image})["image"])


def test_patient_is_the_datalists_or_else_the_headers(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    load = Compose([LoadRadiographd("image", img_size=32, with_patient=True), LoadPatientd("image")])
    path = write_dicom(picture)
    item = load({"image": path, "patient": ""})
    assert item["patient"] == "hospital-number-77"
    assert "hospital-number-77" not in str(item["image"].meta)
    assert load({"image": path, "patient": "of the datalist"})["patient"] == "of the datalist"
    assert load({"image": write_dicom(picture, PatientID=None)})["patient"] == ""
    Image.fromarray((picture // 16).astype(np.uint8)).save(tmp_path / "image.png")
    assert load({"image": tmp_path / "image.png"})["patient"] == ""


def test_batch_holds_what_the_export_needs_and_no_more() -> None:
    image = MetaTensor(torch.rand(2, 1, 8, 8), meta={"filename_or_obj": "secret"})
    batch = collate_views([{"image": image, "image_id": id_, "patient": "p", "file": "a.dcm"} for id_ in "ab"])
    assert batch.keys() == {"image", "image_id", "patient"}
    assert batch["image_id"] == ["a", "b"]
    assert type(batch["image"]) is torch.Tensor
    assert batch["image"].shape == (2, 2, 1, 8, 8)
