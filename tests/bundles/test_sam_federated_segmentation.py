from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import TORCHRUN, arguments, as_flags, check_metadata, completed, kill_once_there, run, workflow
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.transforms import SaveImaged
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from msdino_monai.errors import UserError
from msdino_monai.networks.lora import load_adapter
from msdino_monai.networks.sam import SamSegmenter

BUNDLE = Path(__file__).parents[2] / "bundles" / "sam_federated_segmentation"
TINY: dict[str, Any] = {
    "size": "tiny",
    "image_size": 32,
    "rank": 4,
    "stacks_per_volume": 2,
    "batch_size": 2,
    "max_epochs": 2,
    "num_workers": 0,
}
RUN = {"num_workers": 0}


def abdomen(seed: int, shape: tuple[int, int, int] = (40, 34, 9)) -> tuple[np.ndarray, np.ndarray]:
    """A bright body with two brighter kidneys, one of them with a dark tumour, in HU (RAS), and their mask."""
    generator = np.random.default_rng(seed)
    x, y, z = np.mgrid[: shape[0], : shape[1], : shape[2]]
    centre = np.array(shape) / 2
    body = ((x - centre[0]) / (0.45 * shape[0])) ** 2 + ((y - centre[1]) / (0.45 * shape[1])) ** 2 < 1
    volume = np.where(body, 20.0, -1000.0)
    mask = np.zeros(shape, dtype=np.uint8)
    for side in (-1, 1):
        middle = centre + np.array([side * 0.22 * shape[0], 0, 0]) + generator.uniform(-1, 1, 3)
        kidney = ((x - middle[0]) / 6) ** 2 + ((y - middle[1]) / 5) ** 2 + ((z - middle[2]) / 4) ** 2 < 1
        mask[kidney] = 1
        if side > 0:
            mask[((x - middle[0]) / 3) ** 2 + ((y - middle[1]) / 3) ** 2 + ((z - middle[2]) / 2) ** 2 < 1] = 2
    volume[mask == 1], volume[mask == 2] = 180.0, 90.0
    return (volume + generator.normal(0, 10, shape)).astype(np.float32), mask


def affine_of(spacing: Sequence[float] = (1.5, 1.5, 4.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-30, -25, 700)
    return affine


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospital")
    content: dict[str, Any] = {"classes": ["kidney", "tumour"], "training": [], "validation": [], "test": []}
    sections = ["training"] * 4 + ["validation"] * 2 + ["test"] * 3
    for number, section in enumerate(sections):
        volume, mask = abdomen(number)
        names = {"image": f"images/{number}.nii.gz", "label": f"labels/{number}.nii.gz"}
        save(root / names["image"], volume, affine_of())
        save(root / names["label"], mask, affine_of())
        content[section].append({**names, "patient": f"p{number}"})
    (root / "datalist.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def trained(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of one short training."""
    output_dir = tmp_path_factory.mktemp("trained")
    train(hospital, output_dir)
    return output_dir / "models" / "model.pt"


def flow_of(configs: Sequence[str], kind: str, bundle: Path = BUNDLE, **settings: Any) -> ConfigWorkflow:
    return workflow(bundle, configs, kind, **settings)


def train(site: Path, output_dir: Path, **settings: Any) -> ConfigWorkflow:
    given = {"dataset_dir": str(site), "output_dir": str(output_dir), **TINY, **settings}
    return run(flow_of(["train.json"], "train", **given))


def evaluate(site: Path, output_dir: Path, model: Path, **settings: Any) -> dict[str, Any]:
    given = {"dataset_dir": str(site), "output_dir": str(output_dir), "model": str(model), **RUN, **settings}
    run(flow_of(["train.json", "evaluate.json"], "train", bootstrap_repeats=20, **given))
    content: dict[str, Any] = json.loads((output_dir / "metrics.json").read_text())
    return content


def infer(
    images: Path, output_dir: Path, model: Path, bundle: Path = BUNDLE, **settings: Any
) -> dict[str, dict[str, str]]:
    given = {"dataset_dir": str(images), "output_dir": str(output_dir), "model": str(model), **RUN, **settings}
    run(flow_of(["inference.json"], "inference", bundle, **given))
    with (output_dir / "predictions.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(output_dir / "models" / "model.pt", weights_only=True)
    return loaded


def altered(site: Path, folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """A copy of the hospital with something wrong in it."""
    shutil.copytree(site, folder)
    content = json.loads((folder / "datalist.json").read_text())
    change(folder, content)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def write_series(folder: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """A CT series of a volume (X, Y, Z) on an affine (RAS), a file for each slice, in no order."""
    folder.mkdir(parents=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    study, series = generate_uid(), generate_uid()
    for number in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{(number * 5) % volume.shape[2]:03}.dcm"
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.Modality, dataset.InstanceNumber = "CT", number
        dataset.ImageOrientationPatient = [*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1])]
        dataset.ImagePositionPatient = list(lps[:3, 3] + number * lps[:3, 2])
        dataset.PixelSpacing = [steps[1], steps[0]]
        dataset.Rows, dataset.Columns = volume.shape[1], volume.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = np.round(volume[..., number].T + 1024).astype(np.int16).tobytes()
        if int(pydicom.__version__.split(".")[0]) >= 3:
            dataset.save_as(path, enforce_file_format=True)
        else:
            dataset.is_little_endian, dataset.is_implicit_VR = True, False
            dataset.save_as(path, write_like_original=False)


def test_training_leaves_a_model_and_an_adapter_that_say_what_they_are(trained: Path) -> None:
    description = json.loads(trained.with_suffix(".network.json").read_text())
    assert description["classes"] == ["kidney", "tumour"]
    assert description["network"] == {
        "size": "tiny", "rank": 4, "trainable": "flap", "image_size": 32, "num_slices": 5
    }  # fmt: skip
    assert description["chosen"]["epoch"] in (1, 2)
    state = torch.load(trained, weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())
    assert json.loads((trained.parent / "adapter.network.json").read_text()) == description
    assert (trained.parent / "adapter.safetensors").stat().st_size < trained.stat().st_size
    left = {path.name for path in trained.parents[1].iterdir()}
    assert left == {"checkpoints", "curves.csv", "models", "tensorboard"}


def test_checkpoints_hold_the_trained_tensors_alone(trained: Path) -> None:
    newest = sorted((trained.parents[1] / "checkpoints").glob("epoch_*.pt"))[-1]
    kept = torch.load(newest, weights_only=True)["parts"]["network"]
    assert kept
    assert all("lora_" in name or name.startswith("mask_decoder") for name in kept)
    assert len(kept) < len(torch.load(trained, weights_only=True)) / 2


def test_evaluation_reports_cases_intervals_and_pictures(hospital: Path, trained: Path, tmp_path: Path) -> None:
    metrics = evaluate(hospital, tmp_path, trained)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = json.loads((hospital / "datalist.json").read_text())["test"]
    assert metrics["cases"] == len(test)
    assert metrics["section"] == "test"
    assert len(metrics["model_sha256"]) == 64
    assert [row["file"] for row in rows[::2]] == sorted(item["image"] for item in test)
    assert {row["unit"] for row in rows} == {"mm"}
    truth = nibabel.load(hospital / test[0]["label"]).get_fdata()
    assert [int(row["truth_voxels"]) for row in rows[:2]] == [(truth == 1).sum(), (truth == 2).sum()]
    dice = [float(row["dice"]) for row in rows if row["class"] == "kidney"]
    assert metrics["classes"]["kidney"]["dice"]["value"] == pytest.approx(np.mean(dice), abs=1e-5)
    for name in ("best", "median", "worst"):
        with Image.open(tmp_path / f"overlay_{name}.png") as picture:
            assert picture.size[0] > 320


def test_adapter_alone_predicts_what_the_whole_model_predicts(hospital: Path, trained: Path, tmp_path: Path) -> None:
    whole = evaluate(hospital, tmp_path / "whole", trained)
    alone = evaluate(hospital, tmp_path / "alone", trained.parent / "adapter.safetensors")
    assert alone["classes"] == whole["classes"]


def test_adapter_of_another_base_or_rank_is_refused(hospital: Path, trained: Path, tmp_path: Path) -> None:
    for name, change, words in (
        ("rank", {"rank": 2}, "has rank 4, this network has 2"),
        ("base", {"seed": 5}, "has base_sha256"),
    ):
        folder = tmp_path / name
        shutil.copytree(trained.parent, folder)
        said = json.loads((folder / "adapter.network.json").read_text())
        said["seed"] = change.get("seed", said["seed"])
        said["network"]["rank"] = change.get("rank", said["network"]["rank"])
        (folder / "adapter.network.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match=words) as raised:
            infer(hospital / "images", tmp_path / f"out_{name}", folder / "adapter.safetensors")
        assert "\n" not in str(raised.value)


def test_killed_training_goes_on_bit_for_bit(hospital: Path, trained: Path, tmp_path: Path) -> None:
    settings = {"dataset_dir": hospital, "output_dir": tmp_path, **TINY}
    first = tmp_path / "checkpoints" / "epoch_00001.pt"
    kill_once_there(arguments(BUNDLE, ["train.json"], *as_flags(settings)), first)
    assert sorted(path.name for path in first.parent.glob("epoch_*")) == [first.name]
    train(hospital, tmp_path)
    whole = torch.load(trained, weights_only=True)
    resumed = weights(tmp_path)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    before = (tmp_path / "models" / "model.pt").read_bytes()
    train(hospital, tmp_path)  # complete: nothing to do
    assert (tmp_path / "models" / "model.pt").read_bytes() == before


def oblique(angle: float = 0.3) -> np.ndarray:
    """Turned about two axes, anisotropic, the first axis flipped."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 1.1, 4.0])
    affine[:3, 3] = (31.25, -18.5, 402.0)
    return affine


def test_masks_lie_where_their_volumes_lie(trained: Path, tmp_path: Path) -> None:
    """One volume stored along other axes, upside down, anisotropic or oblique: shape and affine are the file's own."""
    volume, _ = abdomen(3)
    flipped = affine_of() @ np.array([[-1, 0, 0, 39], [0, 1, 0, 0], [0, 0, -1, 8], [0, 0, 0, 1]], dtype=float)
    turned = affine_of()[:, [2, 0, 1, 3]]
    stored = {
        "plain": (volume, affine_of()),
        "flipped": (volume[::-1, :, ::-1], flipped),
        "turned": (volume.transpose(2, 0, 1), turned),
        "oblique": (volume, oblique()),
        "flat": (volume[..., 3:6], affine_of((1.5, 2.5, 4.0))),
    }
    for name, (values, affine) in stored.items():
        save(tmp_path / "in" / f"{name}.nii.gz", np.ascontiguousarray(values), affine)
    rows = infer(tmp_path / "in", tmp_path / "out", trained)
    masks = {}
    for name, (values, affine) in stored.items():
        written = nibabel.load(tmp_path / "out" / rows[f"{name}.nii.gz"]["mask"])
        assert written.shape == values.shape
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)
        masks[name] = np.asarray(written.dataobj)
    assert masks["plain"].any()
    assert (masks["flipped"][::-1, :, ::-1] == masks["plain"]).all()
    assert (masks["turned"].transpose(1, 2, 0) == masks["plain"]).all()
    assert rows["plain.nii.gz"]["kidney_voxels"] == str(int((masks["plain"] == 1).sum()))
    assert float(rows["plain.nii.gz"]["kidney_ml"]) == pytest.approx((masks["plain"] == 1).sum() * 0.009, rel=1e-4)


def test_overlap_of_windows_changes_nothing_where_slices_are_seen_alone(
    hospital: Path, trained: Path, tmp_path: Path
) -> None:
    """What the README says of this network; the windows stand in other places."""
    apart, over = (infer(hospital / "images", tmp_path / str(each), trained, overlap=each) for each in (0.0, 0.6))
    for name, row in apart.items():
        ours, theirs = (nibabel.load(tmp_path / each / row["mask"]) for each in ("0.0", "0.6"))
        assert (np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)).all()
        assert over[name] == row


def test_dicom_series_gets_the_mask_of_the_same_nifti(trained: Path, tmp_path: Path) -> None:
    volume, _ = abdomen(4)
    volume = np.round(volume)
    affine = np.diag([-1.5, -1.5, 4.0, 1.0])
    save(tmp_path / "in" / "flat.nii.gz", volume, affine)
    write_series(tmp_path / "in" / "patient" / "1.2.840", volume, affine)
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"no volume")
    rows = infer(tmp_path / "in", tmp_path / "out", trained)
    assert set(rows) == {"flat.nii.gz", "patient/1.2.840"}
    assert rows["patient/1.2.840"]["mask"] == "patient/1.2.840_mask.nii.gz"
    ours, theirs = (nibabel.load(tmp_path / "out" / row["mask"]) for row in rows.values())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    assert (np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)).all()
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["broken.nii.gz"]


def test_training_takes_dicom_series(hospital: Path, tmp_path: Path) -> None:
    def as_series(folder: Path, content: dict[str, Any]) -> None:
        item = content["training"][0]
        stored = nibabel.load(folder / item["image"])
        write_series(folder / "series", stored.get_fdata(), stored.affine)
        item["image"] = "series"

    data = altered(hospital, tmp_path / "data", as_series)
    train(data, tmp_path / "out", max_epochs=1)
    assert not (tmp_path / "out" / "quarantine.csv").exists()
    assert weights(tmp_path / "out")


def test_monai_label_gets_a_mask_without_a_file(hospital: Path, trained: Path, tmp_path: Path) -> None:
    """Its own steps: preprocessing, inferer, postprocessing without the saver; no folder of volumes is named."""
    flow = flow_of(["inference.json"], "inference", model=str(trained), output_dir=str(tmp_path / "out"))
    image = hospital / "images" / "7.nii.gz"
    data = flow.parser.get_parsed_content("preprocessing")({"image": str(image)})
    network = flow.parser.get_parsed_content("network_def").eval()
    with torch.no_grad():
        data["pred"] = flow.parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    steps = flow.parser.get_parsed_content("postprocessing").transforms
    assert sum(isinstance(step, SaveImaged) for step in steps) == 1
    for step in steps:
        data = data if isinstance(step, SaveImaged) else step(data)
    stored = nibabel.load(image)
    assert data["pred"].shape == (1, *stored.shape)
    assert data["pred"].dtype == torch.uint8
    np.testing.assert_allclose(data["pred"].affine, stored.affine)
    # What Label compares, with numpy, before it would resize or turn the result once more.
    assert not np.any(np.not_equal(data["pred"].shape[1:], data["image"].meta["spatial_shape"]))
    np.testing.assert_allclose(data["image"].meta["original_affine"], stored.affine)
    assert not (tmp_path / "out").exists()


def test_a_program_that_names_volumes_goes_on_with_the_bundles_model(
    hospital: Path, trained: Path, tmp_path: Path
) -> None:
    """As MONAI Label trains: no dataset_dir, lists of paths in the configuration, sizes and classes from the model."""
    bundle = tmp_path / "sam_federated_segmentation"
    shutil.copytree(BUNDLE, bundle)
    shutil.copytree(trained.parent, bundle / "models")
    content = json.loads((hospital / "datalist.json").read_text())
    named = {
        section: [{key: str(hospital / item[key]) for key in ("image", "label")} for item in content[section]]
        for section in ("training", "validation")
    }
    given = {"train#dataset#data": named["training"], "validate#dataset#data": named["validation"]}
    run(flow_of(["train.json"], "train", bundle, **given, **{"train#trainer#max_epochs": 1, "num_workers": 0}))
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    before = torch.load(trained, weights_only=True)
    assert {name: tensor.shape for name, tensor in state.items()} == {name: t.shape for name, t in before.items()}
    said = json.loads((bundle / "models" / "model.network.json").read_text())
    assert said["network"]["size"] == "tiny"
    assert said["classes"] == ["kidney", "tumour"]


def test_unusable_volume_is_quarantined_and_training_goes_on(hospital: Path, tmp_path: Path) -> None:
    def spoil(folder: Path, content: dict[str, Any]) -> None:
        first, second = (folder / item["image"] for item in content["training"][:2])
        first.write_bytes(b"no volume at all")
        save(second, np.full((40, 34, 9), -1000, dtype=np.float32), affine_of())

    data = altered(hospital, tmp_path / "data", spoil)
    train(data, tmp_path / "out", max_epochs=1)
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert any("-160 and 240" in row["reason"] for row in rows)
    assert (tmp_path / "out" / "models" / "model.pt").exists()


def test_bad_masks_and_settings_are_one_line(hospital: Path, tmp_path: Path) -> None:
    def outside(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "labels").iterdir():
            stored = nibabel.load(path)
            save(path, np.asarray(stored.dataobj) + 1, stored.affine)

    def moved(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "labels").iterdir():
            save(path, np.asarray(nibabel.load(path).dataobj), affine_of((1.5, 1.5, 5.0)))

    def smaller(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "labels").iterdir():
            stored = nibabel.load(path)
            save(path, np.asarray(stored.dataobj)[:-1], stored.affine)

    def absent(folder: Path, content: dict[str, Any]) -> None:
        (folder / content["training"][0]["label"]).unlink()

    def no_data(_: Path, content: dict[str, Any]) -> None:
        content["training"] = []

    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, other)

    for number, (change, settings, words) in enumerate(
        [
            (outside, {}, "holds 3 but the classes are 0 to 2"),
            (smaller, {}, "has 39 x 34 x 9 voxels but"),
            (moved, {}, "save it with the image's geometry"),
            (absent, {}, "are not in dataset_dir"),
            (no_data, {}, "has no training entries"),
            (None, {"label_key": "heart", "classes": "a,b"}, "heart is no mask's path"),
            (None, {"max_epochs": 0}, "--max_epochs must be a whole number of at least 1"),
            (None, {"min_overlap": 10}, "--min_overlap must be a number from 0 to 1, got 10"),
            (None, {"output_dir": ""}, "missing --output_dir"),
            (None, {"image_size": 30}, "image_size 30 does not fit tiny"),
            (None, {"size": "huge"}, "size huge is not known"),
            (None, {"trainable": "most"}, "trainable most is not known"),
            (None, {"intensity_range": 5}, "--intensity_range must be two numbers"),
            (None, {"checkpoint": str(other)}, "other.pt is no SAM checkpoint"),
        ]
    ):
        data = altered(hospital, tmp_path / str(number), change) if change else hospital
        with pytest.raises((UserError, ValueError)) as raised:
            train(data, **{"output_dir": tmp_path / f"out{number}", **settings})
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


def test_inference_without_a_model_says_what_to_do(hospital: Path, tmp_path: Path) -> None:
    flow = flow_of(["inference.json"], "inference", dataset_dir=str(hospital), model=str(tmp_path / "none.pt"), **RUN)
    with pytest.raises(RuntimeError) as raised:
        flow.initialize()
    assert "there is no model" in str(raised.value.__cause__)


def test_properties_of_the_workflows_are_complete(hospital: Path, trained: Path, tmp_path: Path) -> None:
    given = {"dataset_dir": str(hospital), "output_dir": str(tmp_path)}
    for flow in (
        flow_of(["train.json"], "train", **given, **TINY),
        flow_of(["train.json", "multi_gpu_train.json"], "train", **given, **TINY),
        flow_of(["inference.json"], "inference", **given, **RUN, model=str(trained)),
    ):
        flow.initialize()
        assert flow.check_properties() == []
        flow.finalize()


def test_metadata_fits_the_network() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        bundle_root=str(BUNDLE),
        device="cpu",
    )


@pytest.mark.skipif("MONAI_SCHEMA" not in os.environ, reason="MONAI_SCHEMA names no copy of MONAI's metadata schema")
def test_metadata_follows_monais_schema() -> None:
    check_metadata(BUNDLE)


def test_moved_bundle_exports_and_runs(hospital: Path, trained: Path, tmp_path: Path) -> None:
    """A copy elsewhere, weights in its `models`, as somebody gets it."""
    bundle = tmp_path / "moved" / "sam_federated_segmentation"
    shutil.copytree(BUNDLE, bundle)
    (bundle / "models").mkdir()
    for path in trained.parent.iterdir():
        shutil.copy(path, bundle / "models")
    rows = infer(hospital / "images", tmp_path / "out", bundle / "models" / "model.pt", bundle)
    assert {row["bundle_version"] for row in rows.values()} == {"0.2.1"}
    ckpt_export(
        net_id="network_def",
        filepath=str(bundle / "models" / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
    )
    script = torch.jit.load(bundle / "models" / "model.ts")
    assert script(torch.rand(1, 1, 32, 32, 5)).shape == (1, 3, 32, 32, 5)


def test_command_line_ends_with_status_3_for_quarantined_files(hospital: Path, trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(hospital / "images" / "0.nii.gz", images / "one.nii.gz")
    (images / "broken.nii.gz").write_bytes(b"no image")
    given = ["--dataset_dir", images, "--output_dir", tmp_path / "out", "--model", trained, "--num_workers", 1]
    ended = completed(arguments(BUNDLE, ["inference.json"], *given))
    assert ended.returncode == 3, ended.stderr
    assert "1 quarantined" in ended.stdout
    assert (tmp_path / "out" / "one_mask.nii.gz").exists()


@pytest.mark.parametrize("trainable", ["flap", "full"])
def test_two_ranks_train_one_model(trainable: str, hospital: Path, tmp_path: Path) -> None:
    """With one volume for validation: a rank may have none."""
    content = json.loads((hospital / "datalist.json").read_text())
    content["validation"] = content["validation"][:1]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    given = {**TINY, "max_epochs": 1, "dataset_dir": hospital, "output_dir": tmp_path / "out", "trainable": trainable}
    flags = as_flags({**given, "datalist": tmp_path / "datalist.json", "intensity_range": "-200,300"})
    ended = completed(arguments(BUNDLE, ["train.json", "multi_gpu_train.json"], *flags, launcher=TORCHRUN))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len(weights(tmp_path / "out")) > 50
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 1
    assert (tmp_path / "out" / "models" / "adapter.safetensors").exists() is (trainable == "flap")
    said = json.loads((tmp_path / "out" / "models" / "model.network.json").read_text())
    assert said["intensity_range"] == [-200, 300]  # a minus sign survives the command line


def test_a_federations_round_is_a_function_of_its_number(hospital: Path, tmp_path: Path) -> None:
    """What the client of a federation does with the bundle, in this process."""
    given = {"dataset_dir": str(hospital), "output_dir": str(tmp_path / "work"), **TINY, "rounds": 2}
    flow = flow_of(["train.json", "federated.json"], "train", **{**given, "max_epochs": 2})
    flow.initialize()
    site = flow.parser.get_parsed_content("federated_site")
    start = site.tensors()
    assert sum(tensor.numel() for tensor in start.values()) < 60_000
    assert not any("image_encoder" in name and "lora_" not in name for name in start)
    assert site.images == 4
    assert "val_mean_dice" in site.validate(start)
    once, again = site.train(start, 1), site.train(start, 1)
    assert all(torch.equal(once[name], again[name]) for name in start)
    assert any(not torch.equal(once[name], start[name]) for name in start)
    assert any(not torch.equal(once[name], tensor) for name, tensor in site.train(start, 2).items())
    site.save(once, tmp_path / "global")
    assert (tmp_path / "global" / "adapter.safetensors").exists()
    site.finish()
    assert not (tmp_path / "work" / "cache").exists()
    evaluate(hospital, tmp_path / "test", tmp_path / "global" / "model.pt")


def test_adapter_of_a_federation_of_fewer_parts_is_loaded_like_any_other(hospital: Path, tmp_path: Path) -> None:
    given = {"dataset_dir": str(hospital), "output_dir": str(tmp_path / "work"), **TINY, "trainable_pattern": "lora_b$"}
    flow = flow_of(["train.json", "federated.json"], "train", **given)
    flow.initialize()
    site = flow.parser.get_parsed_content("federated_site")
    sent = {name: tensor + 0.1 for name, tensor in site.tensors().items()}
    assert all(name.endswith("lora_b") for name in sent)
    for folder in ("once", "again"):  # saving changes nothing in the network
        site.save(sent, tmp_path / folder)
        fresh = SamSegmenter(3, 32, size="tiny", rank=4)
        load_adapter(tmp_path / folder / "adapter.safetensors", fresh)
        state = site.network.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def test_every_setting_stands_in_the_readme() -> None:
    readme = (BUNDLE / "docs" / "README.md").read_text()
    for config, last in (("train.json", "model"), ("inference.json", "device")):
        names = [name for name in json.loads((BUNDLE / "configs" / config).read_text()) if name[0] != "_"]
        settings = names[1 : names.index(last) + 1]  # behind the imports
        assert len(settings) >= 10
        assert [name for name in settings if f"| `{name}` |" not in readme] == []
