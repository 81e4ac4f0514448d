from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import (
    BUNDLES,
    TORCHRUN,
    arguments,
    as_flags,
    check_metadata,
    completed,
    kill_once_there,
    run,
    workflow,
)
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from PIL import Image

from msdino_monai.backbone import save_backbone
from msdino_monai.errors import UserError
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.difference import body_sizes

BUNDLE = BUNDLES / "cxr_classification"
BODY: dict[str, Any] = {"hidden_size": 16, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
SMALL: dict[str, Any] = {
    **BODY,
    "img_size": 32,
    "patch_size": 8,
    "batch_size": 8,
    "max_epochs": 2,
    "num_workers": 0,
    "bootstrap_repeats": 20,
    "learning_rate": 0.002,
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small synthetic hospital with its labels."""
    root = tmp_path_factory.mktemp("labelled")
    write_cohort(str(root), sites=1, patients_per_site=20, seed=3, image_size=64)
    return root / "site_a"


@pytest.fixture(scope="session")
def model(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two epochs: it knows nothing, but says so with a calibration."""
    output = tmp_path_factory.mktemp("trained")
    train(site, output)
    return output / "models" / "model.pt"


def flow_of(configs: tuple[str, ...], kind: str, **settings: Any) -> ConfigWorkflow:
    return workflow(BUNDLE, configs, kind, **settings)


def train(dataset_dir: Path, output_dir: Path, **settings: Any) -> dict[str, Any]:
    run(
        flow_of(
            ("train.json",), "train", dataset_dir=str(dataset_dir), output_dir=str(output_dir), **{**SMALL, **settings}
        )
    )
    return dict(json.loads((output_dir / "metrics.json").read_text()))


def evaluate(dataset_dir: Path, model: Path, output_dir: Path, **settings: Any) -> dict[str, Any]:
    given = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "model": str(model), "num_workers": 0}
    run(flow_of(("train.json", "evaluate.json"), "train", bootstrap_repeats=20, **given, **settings))
    return dict(json.loads((output_dir / "metrics.json").read_text()))


def infer(dataset_dir: Path, model: Path, output_dir: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    given = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "model": str(model), "num_workers": 0}
    run(flow_of(("inference.json",), "inference", **given, **settings))
    found = json.loads((output_dir / "predictions.json").read_text())
    return {entry["file"]: entry for entry in found["predictions"]}


def command(configs: str, *flags: object, launcher: Sequence[str] = ("monai.bundle",)) -> list[str]:
    return arguments(BUNDLE, configs.split("+"), *flags, launcher=launcher)


def relabelled(site: Path, folder: Path, change: Any) -> Path:
    """The hospital's datalist with other labels, beside its images."""
    content = json.loads((site / "datalist.json").read_text())
    for section in ("training", "validation", "test"):
        for place, item in enumerate(content[section]):
            item["label"] = change(place, item["label"])
    folder.mkdir(exist_ok=True)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def test_trained_model_is_evaluated_and_infers(site: Path, model: Path, tmp_path: Path) -> None:
    trained = json.loads((model.parent.parent / "metrics.json").read_text())
    assert set(trained["classes"]) == set(FINDINGS)
    assert not (model.parent.parent / "cache").exists(), "pixels of patients stay no longer than needed"
    evaluated = evaluate(site, model, tmp_path / "test")
    assert evaluated["section"] == "test"
    items = json.loads((site / "datalist.json").read_text())["test"]
    assert evaluated["images"] == len(items)
    predicted = infer(site / "images", model, tmp_path / "inference")
    rows = list(csv.DictReader((tmp_path / "test" / "cases.csv").read_text().splitlines()))
    for row in rows:
        same = predicted[Path(row["file"]).name]["probabilities"]
        for name in FINDINGS:
            assert float(row[f"{name} probability"]) == pytest.approx(same[name], abs=1e-5)
    for name in ("roc.png", "reliability.png"):
        with Image.open(tmp_path / "test" / name) as picture:
            assert picture.size[0] > 100


def test_every_prediction_says_what_made_it(site: Path, model: Path, tmp_path: Path) -> None:
    predicted = infer(site / "images", model, tmp_path, explain="true")
    calibration = json.loads(model.with_suffix(".calibration.json").read_text())
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(predicted) * len(FINDINGS)
    for row in rows:
        threshold = calibration["thresholds"][row["finding"]]
        assert row["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert row["bundle_version"] == "0.2.1"
        assert float(row["threshold"]) == pytest.approx(threshold, rel=1e-5)
        probability = predicted[row["file"]]["probabilities"][row["finding"]]
        assert int(row["positive"]) == (probability >= threshold)
        assert (site / "images" / row["file"]).is_file()
    for entry in predicted.values():
        assert list(entry["explanations"]) == entry["positive"]
        for path in entry["explanations"].values():
            with Image.open(tmp_path / path) as picture:
                assert picture.size == (32, 32)
    assert any(entry["positive"] for entry in predicted.values())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_killed_training_ends_like_an_undisturbed_one(site: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "max_epochs": 3, "patience": 0}
    train(site, tmp_path / "whole", **settings)
    flags = ["--dataset_dir", site, "--output_dir", tmp_path / "killed", *as_flags(settings)]
    first = tmp_path / "killed" / "checkpoints" / "epoch_00001.pt"
    kill_once_there(command("train.json", *flags), first)
    train(site, tmp_path / "killed", **settings)
    states = [torch.load(tmp_path / name / "checkpoints" / "epoch_00003.pt") for name in ("whole", "killed")]
    for part in ("network", "averaged"):
        pair = [state["parts"][part].get("network", state["parts"][part]) for state in states]
        assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0]), part
    models = [torch.load(tmp_path / name / "models" / "model.pt") for name in ("whole", "killed")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_two_ranks_train_one_model(site: Path, tmp_path: Path) -> None:
    flags = ["--dataset_dir", site, "--output_dir", tmp_path / "out", *as_flags({**SMALL, "max_epochs": 1})]
    result = completed(command("train.json+multi_gpu_train.json", *flags, launcher=TORCHRUN))
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["images"] == len(json.loads((site / "datalist.json").read_text())["validation"])
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


def test_backbone_is_fine_tuned_and_the_result_needs_it_no_more(site: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(PatchEmbedding(64, 8, 24, margin=1), ViTBody(24, 16, 32, 2, 2))
    said = {"body": body_sizes(encoder.body), "embedder": encoder.embedding.describe()}
    save_backbone(tmp_path / "backbone", encoder.state_dict(), {**said, "sites": [], "settings": {}, "trained": {}})
    free = dict.fromkeys([*BODY, "patch_size"])
    train(site, tmp_path / "out", backbone=str(tmp_path / "backbone"), freeze_backbone="true", **free)
    tuned = torch.load(tmp_path / "out" / "models" / "model.pt")
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tuned[f"encoder.{name}"], tensor, msg=name)
    assert tuned["encoder.body.positions"].any()
    shutil.rmtree(tmp_path / "backbone")
    assert infer(site / "images", tmp_path / "out" / "models" / "model.pt", tmp_path / "inference")


def test_backbone_of_another_size_is_one_clear_error(site: Path, tmp_path: Path) -> None:
    encoder = ImageEncoder(PatchEmbedding(32, 8, 24), ViTBody(24, 32, 32, 1, 2))
    said = {"body": body_sizes(encoder.body), "embedder": encoder.embedding.describe()}
    save_backbone(tmp_path, encoder.state_dict(), {**said, "sites": [], "settings": {}, "trained": {}})
    with pytest.raises(UserError, match=r"hidden_size: 32 in model\.pt, 16 here"):
        train(site, tmp_path / "out", backbone=str(tmp_path))


def test_one_class_for_each_image(site: Path, tmp_path: Path) -> None:
    datalist = relabelled(site, tmp_path / "lists", lambda place, label: -1 if place == 0 else int(sum(label[:3]) > 0))
    content = json.loads(datalist.read_text())
    content["labels"] = ["clear", "opaque"]
    datalist.write_text(json.dumps(content))
    given = {"task": "multi_class", "datalist": str(datalist), "class_weights": "balanced"}
    metrics = train(site, tmp_path / "out", **given)
    assert list(metrics["classes"]) == ["clear", "opaque"]
    assert metrics["classes"]["clear"]["unknown"] == 1
    assert 0 <= metrics["mean"]["accuracy"]["value"] <= 1
    predicted = infer(site / "images", tmp_path / "out" / "models" / "model.pt", tmp_path / "inference")
    for entry in predicted.values():
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert entry["positive"] == [max(entry["probabilities"], key=entry["probabilities"].__getitem__)]


def test_class_without_positives_is_null_and_said_so(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datalist = relabelled(site, tmp_path / "lists", lambda _, label: [*label[:4], 0, -1])
    metrics = train(site, tmp_path / "out", datalist=str(datalist))
    for name in FINDINGS[4:]:
        assert metrics["classes"][name]["auc"] == {"value": None, "interval": None}
        assert any(name in remark for remark in metrics["undefined"])
        assert name in caplog.text
    defined = [each["auc"]["value"] for each in metrics["classes"].values() if each["auc"]["value"] is not None]
    assert metrics["mean"]["auc"]["value"] == pytest.approx(np.mean(defined))
    calibration = json.loads((tmp_path / "out/models/model.calibration.json").read_text())
    assert set(calibration["undefined"]) >= set(FINDINGS[4:])
    assert calibration["thresholds"][FINDINGS[5]] == 0.5


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            lambda _, label: sum(label),
            {"task": "multi_class", "classes": "a,b"},
            "outside the classes|names its classes",
        ),
        (lambda _, label: label, {"task": "multi_class"}, "mend --task"),
        (lambda _, label: sum(label), {}, "mend --task"),
        (lambda _, label: [*label[:-1], 2], {}, "label is"),
        (lambda *_: "datalist.json", {}, "needs a list of numbers as label, got .*json"),
        (lambda _, label: label[:-1], {}, "make them agree"),
        (lambda _, label: label, {"label_fraction": 2.0}, "--label_fraction"),
        (lambda _, label: label, {"class_weights": (1, 2)}, "--class_weights needs 6"),
        (lambda _, label: label, {"label_key": "lable"}, "mend label_key"),
        (lambda _, label: label, {"task": "multilabel"}, "--task must be"),
        (lambda _, label: label, {"freeze_backbone": True}, "needs a --backbone"),
        (lambda _, label: label, {"batch_size": 0}, "--batch_size must be a whole number"),
        (lambda _, label: label, {"specificity": 90}, "--specificity must be a number from 0 to 1, got 90"),
    ],
)
def test_labels_and_settings_that_cannot_be_learnt_are_refused(
    site: Path, tmp_path: Path, change: Any, settings: dict[str, Any], message: str
) -> None:
    datalist = relabelled(site, tmp_path / "lists", change)
    with pytest.raises(UserError, match=message):
        train(site, tmp_path / "out", datalist=str(datalist), **settings)


def test_datalist_of_other_findings_is_not_evaluated(site: Path, model: Path, tmp_path: Path) -> None:
    datalist = relabelled(site, tmp_path, lambda _, label: label)
    datalist.write_text(datalist.read_text().replace("effusion", "pleural effusion"))
    with pytest.raises(UserError, match="names its classes"):
        evaluate(site, model, tmp_path / "out", datalist=str(datalist))


def test_files_that_cannot_be_used_are_quarantined_everywhere(site: Path, model: Path, tmp_path: Path) -> None:
    hospital = tmp_path / "hospital"
    shutil.copytree(site, hospital)
    content = json.loads((hospital / "datalist.json").read_text())
    for section in ("training", "validation", "test"):
        (hospital / content[section][0]["image"]).write_bytes(b"no image")
    metrics = train(hospital, tmp_path / "out")
    assert metrics["images"] == len(content["validation"]) - 1
    assert (tmp_path / "out" / "quarantine.csv").read_text().count("no image") == 0
    assert len((tmp_path / "out" / "quarantine.csv").read_text().splitlines()) == 3
    assert evaluate(hospital, model, tmp_path / "test")["images"] == len(content["test"]) - 1
    flags = ["--dataset_dir", hospital / "images", "--output_dir", tmp_path / "inference", "--model", model]
    result = completed(command("inference.json", *flags, "--num_workers", 1))
    assert result.returncode == 3, result.stderr[-3000:]
    assert "3 quarantined" in result.stdout
    files = {
        row["file"] for row in csv.DictReader((tmp_path / "inference" / "predictions.csv").read_text().splitlines())
    }
    assert len(files) == len(list((hospital / "images").iterdir())) - 3


def test_real_radiograph_and_its_turned_copy_get_the_same_probabilities(
    chest: Path, model: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(chest)
    images = tmp_path / "images"
    images.mkdir()
    dataset.PatientOrientation = ["L", "F"]
    dataset.save_as(images / "upright.dcm")
    turned = dataset.pixel_array[::-1].T
    dataset.PatientOrientation = ["H", "L"]  # columns run upwards now, rows to the left
    dataset.Rows, dataset.Columns = turned.shape
    dataset.PixelData = np.ascontiguousarray(turned).tobytes()
    dataset.save_as(images / "turned.dcm")
    predicted = infer(images, model, tmp_path / "out", allow_burned_in_annotation=True)
    upright, other = (predicted[name]["probabilities"] for name in ("upright.dcm", "turned.dcm"))
    for name in FINDINGS:
        assert upright[name] == pytest.approx(other[name], abs=2e-3)


def test_bundle_moved_elsewhere_still_infers(site: Path, model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "cxr"
    shutil.copytree(BUNDLE, moved)
    shutil.copytree(model.parent, moved / "models")
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    flags = ["--dataset_dir", str(site / "images"), "--num_workers", "0"]
    result = completed([*start, *flags], cwd=moved)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (moved / "eval" / "predictions.csv").is_file()


@pytest.mark.parametrize(
    ("configs", "flags", "message"),
    [
        (
            "train.json",
            ["--dataset_dir", ".", "--output_dir", "o", "--learning_rat", "1"],
            "did you mean --learning_rate?",
        ),
        ("inference.json", ["--dataset_dir", ".", "--model", "nowhere.pt"], "there is no model nowhere.pt"),
    ],
)
def test_wrong_settings_get_one_line(configs: str, flags: list[str], message: str, tmp_path: Path) -> None:
    result = completed(command(configs, *flags), cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_bundle_has_the_properties_monai_requires(site: Path, model: Path, tmp_path: Path) -> None:
    training = flow_of(("train.json",), "train", dataset_dir=str(site), output_dir=str(tmp_path), **SMALL)
    training.initialize()
    assert training.check_properties() == []
    inference = flow_of(("inference.json",), "inference", dataset_dir=str(site / "images"), model=str(model))
    inference.initialize()
    assert inference.check_properties() == []


def test_steps_for_monai_label_answer_without_the_bundles_own_engine(site: Path, model: Path) -> None:
    """MONAI Label takes preprocessing, network and postprocessing, and its own way in between."""
    flow = flow_of(("inference.json",), "inference", dataset_dir=str(site / "images"), model=str(model))
    parts = [flow.parser.get_parsed_content(name) for name in ("preprocessing", "network_def", "postprocessing")]
    before, network, after = parts
    network.load_state_dict(torch.load(model, weights_only=True))
    sample = before({"image": str(next((site / "images").iterdir())), "image_meta_dict": {}})
    sample["pred"] = network.eval()(sample["image"].as_tensor()[None])[0]
    result = after(sample)
    assert result["pred"].shape == (len(FINDINGS),)
    assert type(result["image"]) is torch.Tensor
    assert "image_meta_dict" not in result


def test_handlers_are_a_literal_list_for_monai_label() -> None:
    config = json.loads((BUNDLE / "configs" / "train.json").read_text())
    assert isinstance(config["train"]["handlers"], list)
    assert config["train"]["trainer"]["train_handlers"] == "@train#handlers"


def test_network_is_what_the_metadata_says() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(BUNDLE),
    )
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert list(metadata["channel_def"].values()) == list(FINDINGS)


def export_arguments(model: Path) -> dict[str, Any]:
    return {
        "net_id": "network_def",
        "ckpt_file": str(model),
        "meta_file": str(BUNDLE / "configs" / "metadata.json"),
        "config_file": str(BUNDLE / "configs" / "inference.json"),
        "bundle_root": str(BUNDLE),
        "model": str(model),
    }


def test_model_exports_to_torchscript(model: Path, tmp_path: Path) -> None:
    ckpt_export(filepath=str(tmp_path / "model.ts"), **export_arguments(model))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    network = flow_of(("inference.json",), "inference", model=str(model)).parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(model, weights_only=True))
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(scripted(image), network.eval()(image))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporter's own
def test_model_exports_to_onnx(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the ONNX exporter needs onnxscript")
    network = flow_of(("inference.json",), "inference", model=str(model)).parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(model, weights_only=True))
    image = torch.rand(1, 1, 32, 32)
    program = torch.onnx.export(network.eval(), (image,), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    reference = pytest.importorskip("onnx.reference", reason="the reference runtime comes with onnx")
    evaluator = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (found,) = evaluator.run(None, {evaluator.input_names[0]: image.numpy()})
    np.testing.assert_allclose(found, network(image).detach().numpy(), atol=1e-4)


@pytest.mark.skipif("MONAI_SCHEMA" not in os.environ, reason="MONAI_SCHEMA names no copy of MONAI's metadata schema")
def test_metadata_follows_monais_schema() -> None:
    check_metadata(BUNDLE)


def test_every_setting_stands_in_the_readme() -> None:
    readme = (BUNDLE / "docs" / "README.md").read_text()
    for name in ("train.json", "evaluate.json", "inference.json"):
        config = json.loads((BUNDLE / "configs" / name).read_text())
        missing = [
            setting
            for setting, value in config.items()
            if not isinstance(value, (dict, list))
            and not setting.startswith("_")
            and "#" not in setting
            and not str(value).startswith(("$@", "$classification"))
            and f"| `{setting}` " not in readme
        ]
        assert missing == [], name
