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

from msdino_monai.backbone import save_backbone
from msdino_monai.errors import UserError
from msdino_monai.finetuning import build_encoder
from msdino_monai.finetuning.classification import LabelledData
from msdino_monai.images.cohort import write_cohort
from msdino_monai.networks.difference import body_sizes

BUNDLE = Path(__file__).parents[2] / "bundles" / "cxr_segmentation"
TINY: dict[str, Any] = {
    "img_size": 32,
    "embedding_dim": 16,
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "feature_size": 4,
    "batch_size": 4,
    "max_epochs": 2,
    "warmup_epochs": 0,
    "num_workers": 0,
}
RUN = {"num_workers": 0, "batch_size": 3}


def flow_of(configs: Sequence[str], kind: str, bundle: Path = BUNDLE, **settings: Any) -> ConfigWorkflow:
    return workflow(bundle, configs, kind, **settings)


def train(hospital: Path, output_dir: Path, **settings: Any) -> ConfigWorkflow:
    given = {"dataset_dir": str(hospital), "output_dir": str(output_dir), **TINY, **settings}
    return run(flow_of(["train.json"], "train", **given))


def infer(images: Path, output_dir: Path, model: Path, bundle: Path = BUNDLE, **settings: Any) -> list[dict[str, str]]:
    given = {"dataset_dir": str(images), "output_dir": str(output_dir), "model": str(model), **RUN, **settings}
    run(flow_of(["inference.json"], "inference", bundle, **given))
    with (output_dir / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(output_dir / "models" / "model.pt", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(str(root), sites=1, patients_per_site=10, seed=5, image_size=64)
    return root / "site_a"


@pytest.fixture(scope="module")
def trained(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of one short training."""
    output_dir = tmp_path_factory.mktemp("trained")
    train(hospital, output_dir)
    return output_dir / "models" / "model.pt"


def write_backbone(folder: Path) -> dict[str, torch.Tensor]:
    """A body as pretraining leaves it, for larger images and without position codes; returns its weights."""
    encoder = build_encoder(64, embedding_dim=16, hidden_size=16, mlp_dim=32, num_layers=2, num_heads=2, margin=2)
    state = {name: tensor for name, tensor in encoder.state_dict().items() if name != "body.positions"}
    about = {"body": body_sizes(encoder.body), "embedder": encoder.embedding.describe(), "sites": [], "settings": {}}
    save_backbone(folder, state, {**about, "trained": {}})
    return state


def altered(hospital: Path, folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """A copy of the hospital with something wrong in it."""
    shutil.copytree(hospital, folder)
    content = json.loads((folder / "datalist.json").read_text())
    change(folder, content)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def test_training_leaves_a_model_that_says_what_it_is(trained: Path) -> None:
    description = json.loads(trained.with_suffix(".network.json").read_text())
    assert description["classes"] == ["right_lung", "left_lung"]
    assert description["task"] == "multi_class"
    assert description["network"]["hidden_size"] == 16
    assert description["chosen"]["epoch"] in (1, 2)
    state = torch.load(trained, weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())
    left = {path.name for path in trained.parents[1].iterdir()}
    assert left == {"checkpoints", "curves.csv", "models", "tensorboard"}


def test_evaluation_reports_cases_intervals_and_pictures(hospital: Path, trained: Path, tmp_path: Path) -> None:
    settings = {"dataset_dir": str(hospital), "output_dir": str(tmp_path), "model": str(trained), **RUN}
    run(flow_of(["train.json", "evaluate.json"], "train", bootstrap_repeats=50, **settings))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = json.loads((hospital / "datalist.json").read_text())["test"]
    assert metrics["cases"] == len(test)
    assert metrics["section"] == "test"
    assert len(metrics["model_sha256"]) == 64
    assert [row["file"] for row in rows[::2]] == sorted(item["image"] for item in test)
    assert {row["unit"] for row in rows} == {"mm"}
    dice = [float(row["dice"]) for row in rows if row["class"] == "left_lung"]
    assert metrics["classes"]["left_lung"]["dice"]["value"] == pytest.approx(np.mean(dice), abs=1e-5)
    for name in ("best", "median", "worst"):
        with Image.open(tmp_path / f"overlay_{name}.png") as picture:
            assert picture.size == (512, 540)


def test_inference_writes_masks_of_the_files_own_size(hospital: Path, trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(hospital / "images", images)
    dicom = sorted(images.iterdir())[0]
    pixels = pydicom.dcmread(dicom).pixel_array
    grey = (pixels / pixels.max() * 255).astype(np.uint8)
    Image.fromarray(grey[:, :50]).save(images / "flat.png")
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.float32), np.diag([-2.0, -2, 1, 1])), images / "n.nii.gz")
    (images / "broken.dcm").write_bytes(dicom.read_bytes()[:700])
    Image.fromarray(np.full((40, 40), 7, dtype=np.uint8)).save(images / "blank.png")
    rows = {row["file"]: row for row in infer(images, tmp_path / "out", trained)}
    assert len(rows) == len(list(images.iterdir())) - 2
    assert rows["flat.png"]["mask"] == "flat_mask.png"
    with Image.open(tmp_path / "out" / "flat_mask.png") as mask:
        assert mask.size == (50, grey.shape[0])
        assert rows["flat.png"]["left_lung_pixels"] == str(int((np.asarray(mask) == 2).sum()))
    written = nibabel.load(tmp_path / "out" / rows["n.nii.gz"]["mask"])
    assert written.shape == grey.T.shape
    np.testing.assert_allclose(written.affine, np.diag([-2.0, -2, 1, 1]))
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == ["blank.png", "broken.dcm"]


def turned_copies(chest: Path, images: Path) -> None:
    """The chest as it is and stored in three other ways, each with the tag that says how."""
    images.mkdir()
    shutil.copy(chest, images / "upright.dcm")
    for name, turn, tag in (
        ("mirrored", (slice(None), slice(None, None, -1)), ["R", "F"]),
        ("rotated", (slice(None, None, -1), slice(None, None, -1)), ["R", "H"]),
    ):
        dataset = pydicom.dcmread(chest)
        dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[turn]).tobytes()
        dataset.PatientOrientation = tag
        dataset.save_as(images / f"{name}.dcm")
    dataset = pydicom.dcmread(chest)
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array.T).tobytes()
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows
    dataset.PatientOrientation = ["F", "L"]
    dataset.save_as(images / "transposed.dcm")


def assert_same_when_turned_back(masks: dict[str, np.ndarray], shape: tuple[int, int]) -> None:
    upright = masks["upright"]
    assert upright.shape == shape
    assert upright.any()
    for back in (masks["mirrored"][:, ::-1], masks["rotated"][::-1, ::-1], masks["transposed"].T):
        assert (back != upright).mean() < 0.002  # odd sizes are averaged from the other side


def test_mask_of_a_real_chest_keeps_its_geometry(chest: Path, trained: Path, tmp_path: Path) -> None:
    """A copy stored upside down, mirrored or transposed, with the tag that says so, gets the same mask, turned too."""
    turned_copies(chest, tmp_path / "images")
    infer(tmp_path / "images", tmp_path / "out", trained)
    masks = {}
    for path in (tmp_path / "images").iterdir():
        with Image.open(tmp_path / "out" / f"{path.stem}_mask.png") as picture:
            masks[path.stem] = np.asarray(picture)
    source = pydicom.dcmread(chest, stop_before_pixels=True)
    assert_same_when_turned_back(masks, (source.Rows, source.Columns))


def test_dicom_seg_of_a_real_chest_keeps_its_geometry(chest: Path, trained: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    turned_copies(chest, tmp_path / "images")
    infer(tmp_path / "images", tmp_path / "out", trained, output_format="dicom_seg")
    source = pydicom.dcmread(chest, stop_before_pixels=True)
    masks = {}
    for path in (tmp_path / "images").iterdir():
        written = highdicom.seg.segread(tmp_path / "out" / f"{path.stem}_mask.dcm")
        assert [uids[2] for uids in written.get_source_image_uids()] == [source.SOPInstanceUID]
        masks[path.stem] = written.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)[0]
    assert_same_when_turned_back(masks, (source.Rows, source.Columns))


def test_monai_label_gets_a_mask_without_a_file(hospital: Path, trained: Path, tmp_path: Path) -> None:
    """Its own steps: preprocessing, network, postprocessing without the saver; no folder of images is named."""
    flow = flow_of(["inference.json"], "inference", model=str(trained), output_dir=str(tmp_path / "out"))
    parser = flow.parser
    image = hospital / json.loads((hospital / "datalist.json").read_text())["test"][0]["image"]
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    network = parser.get_parsed_content("network_def").eval()
    with torch.no_grad():
        data["pred"] = network(data["image"][None])[0]
    steps = parser.get_parsed_content("postprocessing").transforms
    assert sum(isinstance(step, SaveImaged) for step in steps) == 1
    for step in steps:
        data = data if isinstance(step, SaveImaged) else step(data)
    stored = pydicom.dcmread(image, stop_before_pixels=True)
    assert data["pred"].shape == (stored.Columns, stored.Rows, 1)
    assert data["pred"].dtype == torch.uint8
    assert not (tmp_path / "out").exists()


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


def test_few_masks_are_of_the_patients_whose_findings_a_classifier_learns(hospital: Path, tmp_path: Path) -> None:
    given = {"dataset_dir": str(hospital), "output_dir": str(tmp_path), "label_fraction": 0.5, "seed": 2, **TINY}
    flow = flow_of(["train.json"], "train", **given)
    flow.initialize()
    learnt = [item["patient"] for item in flow.parser.get_parsed_content("train#dataset#data")]
    data = LabelledData(None, hospital, label_fraction=0.5, seed=2)
    assert learnt == [item["patient"] for item in data.items("training")]


def test_training_starts_from_a_backbone(hospital: Path, tmp_path: Path) -> None:
    state = write_backbone(tmp_path / "backbone")
    sizes = ("embedding_dim", "hidden_size", "mlp_dim", "num_layers", "num_heads")
    settings = {**TINY, **dict.fromkeys(sizes), "max_epochs": 1, "backbone": str(tmp_path / "backbone")}
    train(hospital, tmp_path / "out", **settings, freeze_backbone=True)
    after = weights(tmp_path / "out")
    kept = [name for name in state if torch.equal(after[f"encoder.{name}"], state[name])]
    assert kept == list(state)
    assert after["encoder.body.positions"].abs().sum() > 0


def test_backbone_of_another_size_is_refused(hospital: Path, tmp_path: Path) -> None:
    write_backbone(tmp_path / "backbone")
    with pytest.raises(UserError, match=r"hidden_size: 16 in model\.pt, 32 here"):
        train(hospital, tmp_path / "out", backbone=str(tmp_path / "backbone"), hidden_size=32)


@pytest.mark.parametrize("task", ["binary", "multi_label"])
def test_other_tasks_run_from_training_to_masks(task: str, hospital: Path, tmp_path: Path) -> None:
    def white(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "masks").glob("*_lungs.png"):
            with Image.open(path) as mask:
                numbers = np.asarray(mask)
            Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(path)

    key = "lungs" if task == "binary" else "lesions"
    data = altered(hospital, tmp_path / "data", white) if task == "binary" else hospital
    train(data, tmp_path / "out", task=task, label_key=key, max_epochs=1)
    rows = infer(data / "images", tmp_path / "masks", tmp_path / "out" / "models" / "model.pt")
    assert len(rows[0]["mask"].split(", ")) == (1 if task == "binary" else 6)
    settings = {"dataset_dir": str(data), "output_dir": str(tmp_path / "report"), **RUN}
    model = str(tmp_path / "out" / "models" / "model.pt")
    run(flow_of(["train.json", "evaluate.json"], "train", model=model, bootstrap_repeats=20, **settings))
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert list(metrics["classes"]) == (["lungs"] if task == "binary" else list(metrics["classes"]))
    if task == "multi_label":
        assert metrics["classes"]["cardiomegaly"]["lesion_sensitivity"]["value"] is None  # never in the mask


def test_unusable_image_is_quarantined_and_training_goes_on(hospital: Path, tmp_path: Path) -> None:
    def spoil(folder: Path, content: dict[str, Any]) -> None:
        first, second = (folder / item["image"] for item in content["training"][:2])
        first.write_bytes(b"no image at all")
        stored = np.full((64, 64), np.nan, dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), second.with_suffix(".nii"))
        content["training"][1]["image"] = f"images/{second.with_suffix('.nii').name}"

    data = altered(hospital, tmp_path / "data", spoil)
    train(data, tmp_path / "out", max_epochs=1)
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (tmp_path / "out" / "models" / "model.pt").exists()


def test_bad_masks_and_settings_are_one_line(hospital: Path, tmp_path: Path) -> None:
    def outside(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "masks").glob("*_lungs.png"):
            with Image.open(path) as mask:
                numbers = np.asarray(mask).copy()
            numbers[0, 0] = 9
            Image.fromarray(numbers).save(path)

    def smaller(folder: Path, _: dict[str, Any]) -> None:
        for path in (folder / "masks").glob("*_lungs.png"):
            Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(path)

    def absent(folder: Path, content: dict[str, Any]) -> None:
        (folder / content["training"][0]["lungs"]).unlink()

    for number, (change, settings, words) in enumerate(
        [
            (outside, {}, "holds 9 but the classes are numbered 0, 1, 2"),
            (smaller, {}, "has 5 x 6 pixels but"),
            (absent, {}, "are not in dataset_dir"),
            (None, {"label_key": "heart"}, "no key 'heart'"),
            (None, {"task": "softmax"}, "--task must be one of multi_class, binary, multi_label"),
            (None, {"max_epochs": 0}, "--max_epochs must be a whole number of at least 1"),
            (None, {"threshold": 50}, "--threshold must be a number from 0 to 1, got 50"),
            (None, {"output_dir": ""}, "missing --output_dir"),
            (None, {"patch_size": 8, "img_size": 30}, "img_size must be a multiple of patch_size 8"),
        ]
    ):
        data = altered(hospital, tmp_path / str(number), change) if change else hospital
        given = {"classes": "a,b", **settings} if "label_key" in settings else settings
        with pytest.raises((UserError, ValueError)) as raised:
            train(data, **{"output_dir": tmp_path / f"out{number}", **given})
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
    bundle = tmp_path / "moved" / "cxr_segmentation"
    shutil.copytree(BUNDLE, bundle)
    (bundle / "models").mkdir()
    for path in trained.parent.iterdir():
        shutil.copy(path, bundle / "models")
    rows = infer(hospital / "images", tmp_path / "out", bundle / "models" / "model.pt", bundle)
    assert {row["bundle_version"] for row in rows} == {"0.2.1"}
    ckpt_export(
        net_id="network_def",
        filepath=str(bundle / "models" / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
    )
    script = torch.jit.load(bundle / "models" / "model.ts")
    assert script(torch.rand(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_command_line_ends_with_status_3_for_quarantined_files(hospital: Path, trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(next(iter(sorted((hospital / "images").iterdir()))), images / "one.dcm")
    (images / "broken.dcm").write_bytes(b"no image")
    given = ["--dataset_dir", images, "--output_dir", tmp_path / "out", "--model", trained, "--num_workers", 0]
    ended = completed(arguments(BUNDLE, ["inference.json"], *given))
    assert ended.returncode == 3, ended.stderr
    assert "1 quarantined" in ended.stdout
    assert (tmp_path / "out" / "one_mask.png").exists()


def test_two_ranks_train_one_model(hospital: Path, tmp_path: Path) -> None:
    """With one validation image: a rank may have none, in every epoch."""
    content = json.loads((hospital / "datalist.json").read_text())
    content["validation"] = content["validation"][:1]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    given = {**TINY, "max_epochs": 2, "dataset_dir": hospital, "output_dir": tmp_path / "out"}
    flags = as_flags({**given, "datalist": tmp_path / "datalist.json"})
    ended = completed(arguments(BUNDLE, ["train.json", "multi_gpu_train.json"], *flags, launcher=TORCHRUN))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len(weights(tmp_path / "out")) > 50
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2


def test_every_setting_stands_in_the_readme() -> None:
    readme = (BUNDLE / "docs" / "README.md").read_text()
    for config, last in (("train.json", "model"), ("inference.json", "device")):
        names = [name for name in json.loads((BUNDLE / "configs" / config).read_text()) if name[0] != "_"]
        settings = names[1 : names.index(last) + 1]  # behind the imports
        assert len(settings) > 10
        assert [name for name in settings if f"| `{name}` |" not in readme] == []
