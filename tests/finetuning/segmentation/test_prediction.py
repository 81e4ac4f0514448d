from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.finetuning.segmentation.prediction import Predictions, SaveMaskd, without_suffix
from msdino_monai.finetuning.segmentation.task import task_of
from msdino_monai.finetuning.segmentation.transform import ToStoredGridd, ToViewerAxesd
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiographd

LUNGS = task_of("multi_class", ["right_lung", "left_lung"])


def decided(image: Path, mask: np.ndarray) -> dict[str, Any]:
    """What reaches the saver: the image, and a mask on its stored grid."""
    item = LoadRadiographd(keys="image", img_size=64)({"image": str(image)})
    return {**item, "pred": MetaTensor(torch.from_numpy(mask)[None], meta={})}


def halves(shape: tuple[int, int] = (96, 80)) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[20:70, 8:36], mask[20:60, 44:72] = 1, 2
    return mask


def saver(folder: Path, out: Path, output_format: str = "auto", task: Any = LUNGS) -> SaveMaskd:
    return SaveMaskd("pred", out, folder, task, Quarantine(out), output_format, model_sha256="ab" * 32)


def test_mask_of_a_dicom_is_a_palette_png_of_its_size(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    image = write_dicom(picture)
    saved = saver(image.parent, tmp_path / "out")(decided(image, halves()))
    assert saved["pred"].meta["saved_to"] == "image_mask.png"
    assert saved["pred"].meta["pixels"] == {"right_lung": 50 * 28, "left_lung": 40 * 28}
    with Image.open(tmp_path / "out" / "image_mask.png") as written:
        assert written.mode == "P"
        np.testing.assert_array_equal(np.asarray(written), halves())


def test_mask_of_a_nifti_is_a_nifti_in_its_place(picture: np.ndarray, tmp_path: Path) -> None:
    affine = np.diag([-0.7, -0.9, 1, 1])
    nibabel.save(nibabel.Nifti1Image(picture.astype(np.float32), affine), tmp_path / "chest.nii.gz")
    saved = saver(tmp_path, tmp_path / "out")(decided(tmp_path / "chest.nii.gz", halves()))
    written = nibabel.load(tmp_path / "out" / saved["pred"].meta["saved_to"])
    assert saved["pred"].meta["saved_to"] == "chest_mask.nii.gz"
    np.testing.assert_array_equal(np.asarray(written.dataobj), halves())
    np.testing.assert_allclose(written.affine, affine)


def test_labels_that_overlap_get_a_file_each(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    image = write_dicom(picture)
    item = decided(image, halves())
    item["pred"] = MetaTensor(torch.stack([torch.ones(96, 80), torch.zeros(96, 80)]).byte(), meta={})
    saved = saver(image.parent, tmp_path / "out", task=task_of("multi_label", ["a b", "c"]))(item)
    assert saved["pred"].meta["saved_to"] == "image_mask_a_b.png, image_mask_c.png"
    assert saved["pred"].meta["pixels"] == {"a b": 96 * 80, "c": 0}


def test_no_two_images_share_a_mask(tmp_path: Path) -> None:
    for name in ("a/1.dcm", "a/1.png", "a/2.dcm", "b/1.dcm", "b/1.2.840.10", "b/1.2.840.11", "b/x.NII.GZ"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    save = saver(tmp_path, tmp_path / "out")
    images = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = {path.relative_to(tmp_path).as_posix(): save.name_of(path) for path in images}
    assert names == {
        "a/1.dcm": "a/1.dcm_mask",
        "a/1.png": "a/1.png_mask",
        "a/2.dcm": "a/2_mask",
        "b/1.dcm": "b/1_mask",
        "b/1.2.840.10": "b/1.2.840.10_mask",
        "b/1.2.840.11": "b/1.2.840.11_mask",
        "b/x.NII.GZ": "b/x_mask",
    }
    assert without_suffix(".png") == ".png"


def test_monai_label_takes_the_saver_for_monais() -> None:
    assert issubclass(SaveMaskd, SaveImaged)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output_format must be one of auto, png, nifti, dicom_seg, got 'jpg'"):
        saver(tmp_path, tmp_path / "out", "jpg")


def test_format_without_its_package_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msdino_monai.finetuning.segmentation.dicom_seg.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs highdicom; run: pip install 'msdino-monai\[dicom\]'"):
        saver(tmp_path, tmp_path / "out", "dicom_seg")


def test_dicom_seg_refers_to_its_image_and_has_its_pixels(chest: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    image = tmp_path / "chest.dcm"
    image.write_bytes(chest.read_bytes())
    source = pydicom.dcmread(image, stop_before_pixels=True)
    mask = np.zeros((source.Rows, source.Columns), dtype=np.uint8)
    mask[100:900, 200:700], mask[300:1200, 1000:1500] = 1, 2
    saved = saver(tmp_path, tmp_path / "out", "dicom_seg")(decided(image, mask))
    assert saved["pred"].meta["saved_to"] == "chest_mask.dcm"
    written = highdicom.seg.segread(tmp_path / "out" / "chest_mask.dcm")
    assert (written.Rows, written.Columns) == (source.Rows, source.Columns)
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.PatientID == source.PatientID
    assert [uids[2] for uids in written.get_source_image_uids()] == [source.SOPInstanceUID]
    assert [description.segment_label for description in written.SegmentSequence] == ["right_lung", "left_lung"]
    side = written.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Right"
    layers = written.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=False)
    np.testing.assert_array_equal(layers[0, ..., 0], mask == 1)
    np.testing.assert_array_equal(layers[0, ..., 1], mask == 2)
    first = (tmp_path / "out" / "chest_mask.dcm").read_bytes()
    saver(tmp_path, tmp_path / "out", "dicom_seg")(decided(image, mask))
    again = pydicom.dcmread(tmp_path / "out" / "chest_mask.dcm")
    assert again.SOPInstanceUID == pydicom.dcmread(io.BytesIO(first)).SOPInstanceUID


def test_empty_and_overlapping_layers_fit_into_a_dicom_seg(chest: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    image = tmp_path / "chest.dcm"
    image.write_bytes(chest.read_bytes())
    source = pydicom.dcmread(image, stop_before_pixels=True)
    item = decided(image, np.zeros((source.Rows, source.Columns), dtype=np.uint8))
    layers = torch.zeros(3, source.Rows, source.Columns, dtype=torch.uint8)
    layers[0, :500], layers[1, 300:900] = 1, 1
    item["pred"] = MetaTensor(layers, meta={})
    task = task_of("multi_label", ["effusion", "a finding of ours", "nodule"])
    saver(tmp_path, tmp_path / "out", "dicom_seg", task)(item)
    written = highdicom.seg.segread(tmp_path / "out" / "chest_mask.dcm")
    found = written.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=False)
    np.testing.assert_array_equal(np.moveaxis(found[0], -1, 0), layers.numpy())


def test_image_no_dicom_seg_can_refer_to_is_quarantined(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    image = write_dicom(picture)  # of no study
    Image.fromarray((picture // 16).astype(np.uint8)).save(tmp_path / "flat.png")
    out = tmp_path / "out"
    out.mkdir()
    for path in (image, tmp_path / "flat.png"):
        saved = saver(tmp_path, out, "dicom_seg")(decided(path, halves()))
        assert saved["pred"].meta["saved_to"] == ""
    rows = Quarantine(out).rejected()
    assert [row["file"] for row in rows] == ["image.dcm", "flat.png"]
    assert "StudyInstanceUID" in rows[0]["reason"] or "attribute" in rows[0]["reason"]
    assert rows[1]["reason"] == "a DICOM SEG needs a DICOM image"


def test_table_links_every_mask_to_its_image_and_model(tmp_path: Path) -> None:
    table = Predictions(tmp_path, ["a"], Quarantine(tmp_path), {"model_sha256": "f" * 64, "bundle_version": "0.1.0"})
    table.begin(None)  # type: ignore[arg-type]
    for file in ("z.dcm", "b.dcm"):
        mask = MetaTensor(torch.zeros(1, 2, 2), meta={"saved_to": f"{file}_mask.png", "pixels": {"a": 3}})
        state = SimpleNamespace(batch=[{"file": file}], output=[{"pred": mask}])
        table.add(SimpleNamespace(state=state))  # type: ignore[arg-type]
    table.write(None)  # type: ignore[arg-type]
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["b.dcm", "z.dcm"]
    assert rows[0] == {
        "file": "b.dcm",
        "mask": "b.dcm_mask.png",
        "a_pixels": "3",
        "model_sha256": "f" * 64,
        "bundle_version": "0.1.0",
    }


def test_run_without_one_usable_image_is_an_error(tmp_path: Path) -> None:
    table = Predictions(tmp_path, ["a"], Quarantine(tmp_path), {})
    with pytest.raises(UserError, match=r"no image could be used; .*quarantine.csv says why"):
        table.write(None)  # type: ignore[arg-type]


def test_probabilities_return_to_the_grid_of_the_file(write_dicom: Callable[..., Path], picture: np.ndarray) -> None:
    image = write_dicom(picture)
    item = LoadRadiographd(keys="image", img_size=64)({"image": str(image)})
    placed = ToStoredGridd("pred")({**item, "pred": torch.rand(3, 64, 64)})
    assert placed["pred"].shape == (3, 96, 80)


def test_viewers_get_columns_first_and_an_affine(
    write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path
) -> None:
    image = write_dicom(picture, PixelSpacing=[0.5, 0.25])
    shown = ToViewerAxesd("pred")(decided(image, halves()))
    np.testing.assert_array_equal(shown["pred"].numpy()[..., 0], halves().T)
    for key in ("pred", "image"):
        np.testing.assert_allclose(shown[key].affine, np.diag([-0.25, -0.5, 1, 1]))
    nibabel.save(nibabel.Nifti1Image(picture.astype(np.float32), np.diag([2.0, 3, 1, 1])), tmp_path / "own.nii")
    shown = ToViewerAxesd("pred")(decided(tmp_path / "own.nii", halves()))
    np.testing.assert_array_equal(shown["pred"].numpy()[..., 0], halves())
    np.testing.assert_allclose(shown["pred"].affine, np.diag([2.0, 3, 1, 1]))
