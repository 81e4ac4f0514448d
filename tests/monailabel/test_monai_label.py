"""A user's way through MONAI Label: what it knows, what it predicts, and what it learns."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from label_bundle import LABEL_BUNDLES, LabelBundle
from label_server import LabelServer
from label_workshop import Workshop
from PIL import Image
from requests_toolbelt import MultipartDecoder

pytestmark = pytest.mark.usefixtures("server")
every_bundle = pytest.mark.parametrize("bundle", LABEL_BUNDLES, ids=lambda bundle: bundle.name)


def volume_of(answer: requests.Response) -> Any:
    content = answer.content
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return nibabel.Nifti1Image.from_bytes(content)


def stem(file: Path) -> str:
    return file.name.partition(".")[0]


def assert_same_as_the_command(server: LabelServer, workshop: Workshop, bundle: LabelBundle, name: str) -> None:
    """Voxels, shape and geometry of masks; scores to 1e-4."""
    expected = workshop.expected(bundle, server.bundle(bundle.name), name)
    for file in workshop.files(bundle):
        if bundle.masks:
            mask = volume_of(server.infer(bundle.name, file, "image", result_extension=".nii.gz"))
            wanted = nibabel.load(expected / f"{stem(file)}_mask.nii.gz")
            voxels = np.asarray(wanted.dataobj)
            assert mask.shape[:2] == voxels.shape[:2], file.name
            np.testing.assert_array_equal(np.asarray(mask.dataobj).reshape(voxels.shape), voxels, err_msg=file.name)
            np.testing.assert_allclose(mask.affine, wanted.affine, atol=1e-5, err_msg=file.name)
            assert voxels.any(), "an empty mask would prove nothing"
        else:
            answer = server.infer(bundle.name, file, "json").json()["prediction"]
            found = {each["label"]: each["score"] for each in answer}
            entries = json.loads((expected / "predictions.json").read_text())["predictions"]
            (entry,) = [entry for entry in entries if entry["file"] == file.name]
            assert found == pytest.approx(entry["probabilities"], abs=1e-4), file.name


def test_every_bundle_is_known_for_what_it_is(server: LabelServer) -> None:
    info = server.get("/info/")
    assert set(info["models"]) == set(info["trainers"]) == {bundle.name for bundle in LABEL_BUNDLES}
    for bundle in LABEL_BUNDLES:
        model = info["models"][bundle.name]
        assert model["type"] == ("segmentation" if bundle.masks else "classification")
        metadata = json.loads((server.bundle(bundle.name) / "configs" / "metadata.json").read_text())
        form = metadata["network_data_format"]
        classes = {value: int(key) for key, value in form["outputs"]["pred"]["channel_def"].items()}
        classes.pop("background", None)
        assert model["labels"] == classes
        assert model["dimension"] == len(form["inputs"]["image"]["spatial_shape"])
        assert model["version"] == metadata["version"]


@every_bundle
def test_answers_are_those_of_the_command(server: LabelServer, workshop: Workshop, bundle: LabelBundle) -> None:
    assert ".nii.gz" in {"".join(file.suffixes) for file in workshop.files(bundle)}
    assert any(file.suffix == ".dcm" or file.is_dir() for file in workshop.files(bundle))
    assert_same_as_the_command(server, workshop, bundle, "first")


@every_bundle
def test_answers_name_their_labels(server: LabelServer, workshop: Workshop, bundle: LabelBundle) -> None:
    """MONAI Label writes the mask also where nobody asks for it, and fails on a folder if no format is named."""
    labels = server.get("/info/")["models"][bundle.name]["labels"]
    for file in workshop.files(bundle):
        params = {"result_extension": ".nii.gz"} if file.is_dir() else {}
        assert server.infer(bundle.name, file, "json", **params).json()["label_names"] == labels


@pytest.mark.parametrize("bundle", [bundle for bundle in LABEL_BUNDLES if bundle.masks], ids=lambda bundle: bundle.name)
def test_viewers_get_mask_and_labels_in_one_answer(
    server: LabelServer, workshop: Workshop, bundle: LabelBundle
) -> None:
    """3D Slicer asks this way: no output named, the mask in the image's own format."""
    file = next(file for file in workshop.files(bundle) if file.name.endswith(".nii.gz"))
    answer = server.infer(bundle.name, file, "all")
    parts = {
        part.headers[b"Content-Disposition"].split(b'"')[1]: part
        for part in MultipartDecoder.from_response(answer).parts
    }
    assert json.loads(parts[b"params"].content)["label_names"]
    image, mask = nibabel.load(file), nibabel.Nifti1Image.from_bytes(gzip.decompress(parts[b"image"].content))
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


def test_png_gets_a_png_of_class_numbers(server: LabelServer, workshop: Workshop) -> None:
    (bundle,) = [bundle for bundle in LABEL_BUNDLES if bundle.name == "cxr_segmentation"]
    (file,) = [file for file in workshop.files(bundle) if file.suffix == ".png"]
    with Image.open(io.BytesIO(server.infer(bundle.name, file, "image").content)) as mask, Image.open(file) as image:
        assert mask.size == image.size
        volume = volume_of(server.infer(bundle.name, file, "image", result_extension=".nii.gz"))
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(volume.dataobj)[..., 0].T)


def test_dicom_series_is_taken_as_its_folder(server: LabelServer, workshop: Workshop, tmp_path: Path) -> None:
    (bundle,) = [bundle for bundle in LABEL_BUNDLES if bundle.name == "cxr_segmentation"]
    (file,) = [file for file in workshop.files(bundle) if file.suffix == ".dcm"]
    (tmp_path / "1.dcm").write_bytes(file.read_bytes())
    params = {"params": json.dumps({"result_extension": ".nii.gz"})}
    mask = volume_of(server.post(f"/infer/{bundle.name}?image={tmp_path}&output=image", data=params))
    whole = volume_of(server.infer(bundle.name, file, "image", result_extension=".nii.gz"))
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(whole.dataobj))
    np.testing.assert_allclose(mask.affine, whole.affine)


@every_bundle
def test_active_learning_names_images_that_lack_a_label(
    server: LabelServer, workshop: Workshop, bundle: LabelBundle
) -> None:
    server.forget_images()
    images = {server.add_image(file) for file, _ in bundle.items(workshop.data(bundle), "test")[:2]}
    for strategy in ("first", "random"):
        chosen = server.post(f"/activelearning/{strategy}", json={}).json()
        assert chosen["id"] in images
        assert Path(chosen["path"]).is_file()
    params = {"params": json.dumps({"result_extension": ".nii.gz"} if bundle.masks else {})}
    answer = server.post(f"/infer/{bundle.name}?image={chosen['id']}&output=all", data=params)
    if bundle.masks:
        assert b'name="image"' in answer.content
    else:
        assert len(answer.json()["prediction"]) == len(server.get("/info/")["models"][bundle.name]["labels"])


@every_bundle
def test_training_goes_on_with_the_model_and_the_server_uses_the_new_one(
    server: LabelServer, workshop: Workshop, bundle: LabelBundle
) -> None:
    model = server.bundle(bundle.name) / "models" / "model.pt"
    before, described = digest(model), json.loads(model.with_suffix(".network.json").read_text())
    data = workshop.data(bundle)
    server.forget_images()
    for file, label in bundle.items(data, "training")[:16]:
        server.add_label(server.add_image(file), *bundle.label_file(data, label))
    state = server.train(bundle.name, max_epochs=1, val_split=0.25)
    assert state["status"] == "DONE", "\n".join(state["details"])
    assert digest(model) != before
    now = json.loads(model.with_suffix(".network.json").read_text())
    assert [now[name] for name in ("network", "task", "classes")] == [
        described[name] for name in ("network", "task", "classes")
    ]
    left = {path.name for path in model.parents[1].iterdir()}
    assert left.isdisjoint({"None", "cache", "checkpoints"}), "pixels and half-made models do not stay"
    assert not (server.folder / "None").exists()
    assert_same_as_the_command(server, workshop, bundle, "second")


def test_label_that_cannot_be_learnt_ends_the_training_with_a_reason(server: LabelServer, workshop: Workshop) -> None:
    (bundle,) = [bundle for bundle in LABEL_BUNDLES if bundle.name == "cxr_classification"]
    model = server.bundle(bundle.name) / "models" / "model.pt"
    before = digest(model)
    server.forget_images()
    for file, _ in bundle.items(workshop.data(bundle), "training")[:16]:
        server.add_label(server.add_image(file), "label.json", b'{"fracture": 1}')
    state = server.train(bundle.name, max_epochs=1)
    assert state["status"] == "ERROR"
    assert "names 'fracture'; the classes are bilateral_opacities" in "\n".join(state["details"])
    assert digest(model) == before


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
