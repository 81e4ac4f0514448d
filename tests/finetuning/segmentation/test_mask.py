from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.finetuning.few_labels import few_labels
from msdino_monai.finetuning.segmentation.items import cases, mask_sections, names_hash
from msdino_monai.finetuning.segmentation.mask import LoadMaskd, affine_of, read_mask, write_nifti, write_png
from msdino_monai.finetuning.segmentation.task import task_of
from msdino_monai.images.transforms import LoadRadiographd


@pytest.fixture
def image(write_dicom: Callable[..., Path], picture: np.ndarray) -> Path:
    return write_dicom(picture, PixelSpacing=[0.5, 0.25])


@pytest.fixture
def classes(picture: np.ndarray) -> np.ndarray:
    """Right and left of the picture, as classes 1 and 2."""
    mask = np.zeros(picture.shape, dtype=np.uint8)
    mask[10:60, 5:30], mask[30:80, 45:70] = 1, 2
    return mask


@pytest.mark.parametrize("mode", ["palette", "L", "I;16"])
def test_png_holds_class_numbers_in_any_grey_or_palette(
    mode: str, image: Path, classes: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "mask.png"
    if mode == "palette":
        path.write_bytes(write_png(classes))
        with Image.open(path) as drawn:
            assert drawn.mode == "P"
    else:
        Image.fromarray(classes.astype(np.uint16) if mode == "I;16" else classes).save(path)
    mask = read_mask(path, image, classes.shape, (0, 1, 2))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, classes)


def test_black_and_white_png_is_a_binary_mask(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(classes > 0).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", image, classes.shape, (0, 1, 255)), classes > 0)


def test_nifti_beside_another_image_has_columns_first(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    written = write_nifti(classes, image)
    (tmp_path / "mask.nii.gz").write_bytes(written)
    loaded = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(loaded.dataobj), classes.T)
    np.testing.assert_allclose(loaded.affine, np.diag([-0.25, -0.5, 1, 1]))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", image, classes.shape, (0, 1, 2)), classes)


@pytest.mark.parametrize("shape", [(64, 40), (64, 40, 1)])
def test_nifti_lies_on_its_nifti(shape: tuple[int, ...], tmp_path: Path) -> None:
    affine = np.array([[0, -0.7, 0, 3], [-0.9, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    source = nibabel.Nifti1Image(np.random.default_rng(0).random(shape, dtype=np.float32), affine)
    path = tmp_path / "image of any name"
    path.write_bytes(gzip.compress(source.to_bytes()))
    mask = np.zeros((64, 40), dtype=np.uint8)
    mask[3:9, 4:30] = 1
    (tmp_path / "mask.nii.gz").write_bytes(write_nifti(mask, path))
    loaded = nibabel.load(tmp_path / "mask.nii.gz")
    assert loaded.shape == shape
    np.testing.assert_allclose(loaded.affine, affine)
    np.testing.assert_allclose(affine_of(path), affine)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", path, (64, 40), (0, 1)), mask)


def test_label_outside_the_classes_is_named(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    classes[0, 0], classes[1, 1] = 7, 9
    (tmp_path / "mask.png").write_bytes(write_png(classes))
    with pytest.raises(UserError, match=r"mask .*mask.png holds 7, 9 but the classes are numbered 0, 1, 2; mend"):
        read_mask(tmp_path / "mask.png", image, classes.shape, (0, 1, 2))


def test_mask_of_another_size_is_named(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(write_png(classes[:50]))
    with pytest.raises(UserError, match=r"mask .*mask.png has 50 x 80 pixels but .* is stored with 96 x 80; draw it"):
        read_mask(tmp_path / "mask.png", image, classes.shape, (0, 1, 2))


def test_other_files_are_no_masks(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((96, 80, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "broken.nii").write_bytes(nibabel.Nifti1Image(classes, np.eye(4)).to_bytes()[:400])
    for file, message in (
        ("colour.png", r"colour.png is in colour \(RGB\)"),
        ("broken.png", "broken.png cannot be read"),
        ("broken.nii", "broken.nii cannot be read"),
        ("absent.png", "absent.png cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / file, image, classes.shape, (0, 1, 2))
    with pytest.raises(UserError, match="is DICOM; give a PNG or a NIfTI"):
        read_mask(image, image, classes.shape, (0, 1, 2))


def test_mask_is_loaded_where_its_image_lies(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(write_png(classes))
    item = LoadRadiographd(keys="image", img_size=64)({"image": image, "label": str(tmp_path / "mask.png")})
    many = LoadMaskd("label", task_of("multi_class", ["a", "b"]), 64)(item)["label"]
    assert many.shape == (1, 64, 64)
    assert many.unique().tolist() == [0, 1, 2]
    each = LoadMaskd("label", task_of("multi_label", ["a", "b"]), 64)(item)["label"]
    assert each.equal(torch.cat([many == 1, many == 2]).to(each.dtype))


def test_datalist_without_masks_is_refused(image: Path, tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps({"test": [{"image": image.name, "label": [0, 1]}]}))
    with pytest.raises(UserError, match="no mask's path; choose another --label_key"):
        mask_sections(None, image.parent, "label", ("test",))


def test_items_know_their_files_and_patients(image: Path, classes: np.ndarray, tmp_path: Path) -> None:
    (image.parent / "mask.png").write_bytes(write_png(classes))
    listed = {"test": [{"image": image.name, "lungs": "mask.png"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(listed))
    sections = mask_sections(None, image.parent, "lungs", ("test",))
    assert cases(sections["test"], image.parent) == [
        {"image": image.name, "image_file": str(image), "mask": str(image.parent / "mask.png"), "patient": ""}
    ]
    before = names_hash(sections)
    shutil.copytree(image.parent, tmp_path / "elsewhere" / "images")
    assert names_hash(mask_sections(None, tmp_path / "elsewhere" / "images", "lungs", ("test",))) == before
    (image.parent / "mask.png").write_bytes(write_png(classes[:-1]))  # drawn anew
    assert names_hash(sections) != before
    assert names_hash({"test": []}) != names_hash(sections)


def test_share_of_masks_is_drawn_by_the_findings_beside_them(tmp_path: Path) -> None:
    findings = [[int(number % 7 == 0), int(number % 5 == 1), int(number % 2)] for number in range(40)]
    for name in ("image.png", "mask.png"):
        (tmp_path / name).write_bytes(b"x")

    def patients(label_key: str, items: list[dict[str, Any]]) -> list[str]:
        (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
        kept = mask_sections(None, tmp_path, label_key, ("training",), label_fraction=0.2, seed=3)["training"]
        assert all(item.keys() == {"image", "label", "patient"} for item in kept)
        return [item["patient"] for item in kept]

    masks = [{"image": "image.png", "lungs": "mask.png", "patient": str(number)} for number in range(40)]
    labelled = [{**item, "label": label} for item, label in zip(masks, findings, strict=True)]
    drawn = [item["patient"] for item in few_labels(labelled, 0.2, seed=3)]
    plain = [item["patient"] for item in few_labels(masks, 0.2, seed=3)]
    assert patients("lungs", labelled) == drawn != plain
    assert patients("lungs", masks) == plain
    assert patients("label", [{**item, "label": "mask.png"} for item in masks]) == plain
