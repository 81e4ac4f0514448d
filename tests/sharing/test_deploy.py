"""MONAI Deploy runs a bundle from its TorchScript archive alone; here are the steps of its inference operator."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import MetaKeys, SpaceKeys, convert_to_dst_type, ensure_tuple, set_determinism
from PIL import Image
from small_bundle_parts import BUNDLES, NETWORKS

from msdino_monai.images.abdomen import write_volumes
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.export import TORCHSCRIPT, export_torchscript
from msdino_monai.sharing.weight import network_of


class Operator:
    """What Deploy's `MonaiBundleInferenceOperator` does, step by step, with an image that lies in memory."""

    def __init__(self, archive_path: Path) -> None:
        self.parser, name = ConfigParser(), archive_path.stem
        with zipfile.ZipFile(archive_path) as archive, tempfile.TemporaryDirectory() as folder:
            self.parser.read_meta(f=json.loads(archive.read(f"{name}/extra/metadata.json")))
            archive.extract(f"{name}/extra/inference.json", folder)
            self.parser.read_config([Path(folder) / name / "extra" / "inference.json"])
        self.parser.parse()
        self.device = self.parser.get_parsed_content("device")
        self.inferer = self.parser.get_parsed_content("inferer")
        about = self.parser["_meta_"]["network_data_format"]
        assert list(about["inputs"]) == ["image"]
        (self.output,) = about["outputs"].values()
        self.before, self.after = (self.steps(name) for name in ("preprocessing", "postprocessing"))
        self.network = torch.jit.load(str(archive_path), map_location=self.device).eval()

    def steps(self, name: str) -> Compose:
        """Its transforms without those that read and save images, known by their names."""
        steps: Compose = self.parser.get_parsed_content(name)
        names = ("LoadImage", "SaveImage")
        steps.transforms = tuple(
            each for each in steps.transforms if not any(no in type(each).__name__ for no in names)
        )
        assert isinstance(steps.transforms[0], MapTransform)
        return steps

    def __call__(self, pixels: np.ndarray, meta: dict[str, Any]) -> Any:
        with torch.no_grad():
            value = MetaTensor.ensure_torch_and_prune_meta(convert_to_dst_type(pixels, dst=pixels)[0], meta)
            inputs: dict[str, Any] = dict(self.before({"image": value}))
            first = inputs.pop("image")
            others = {name: each[None].to(self.device) for name, each in inputs.items() if torch.is_tensor(each)}
            found = self.inferer(inputs=first[None].to(self.device), network=self.network, **others)
            result = self.after({"pred": ensure_tuple(found)[0], **inputs, "image": first})["pred"]
        assert isinstance(first.meta, dict)
        if self.output["type"] == "image":
            return np.swapaxes(np.squeeze(result.cpu().numpy(), 0), 0, 2).astype(np.uint8)  # (1, X, Y, Z) -> (Z, Y, X)
        assert self.output["type"] == "probabilities"
        assert set(self.output["channel_def"]) == {str(number) for number in range(len(result))}
        return result.cpu().numpy()


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Path, Operator]]:
    """A tiny bundle with random weights, and the operator that has its archive; it works in the bundle's folder."""

    def deploy(name: str) -> tuple[Path, Operator]:
        root = tmp_path / "app" / name
        shutil.copytree(BUNDLES / name, root)
        (root / "models").mkdir()
        description = {"network": NETWORKS[name], "checkpoint": "random"}
        (root / "models" / "model.network.json").write_text(json.dumps(description))
        set_determinism(3)
        state = network_of(Bundle(root)).state_dict()
        set_determinism(None)
        torch.save(state, root / "models" / "model.pt")
        export_torchscript(Bundle(root), root / "models" / TORCHSCRIPT)
        monkeypatch.chdir(root)
        return root, Operator(root / "models" / TORCHSCRIPT)

    return deploy


def bundle_run(root: Path, images: Path, output_dir: Path) -> None:
    flow = ConfigWorkflow(
        config_file=str(root / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(root),
        dataset_dir=str(images),
        output_dir=str(output_dir),
        num_workers=0,
    )
    for step in (flow.initialize, flow.run, flow.finalize):
        step()


def as_series_operator_gives_it(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A radiograph from Deploy's DICOM operators: stored values (1, H, W), next to nothing of the header."""
    return pydicom.dcmread(path).pixel_array[None].astype(np.int16), {"modality": "CR", "depth_pixel_spacing": 1.0}


def test_radiograph_in_memory_is_classified_as_its_file_is(
    deployed: Callable[[str], tuple[Path, Operator]],
    picture: np.ndarray,
    write_dicom: Callable[..., Path],
    tmp_path: Path,
) -> None:
    root, operator = deployed("cxr_classification")
    (tmp_path / "images").mkdir()
    image = write_dicom(picture, "images/a.dcm")
    found = operator(*as_series_operator_gives_it(image))
    bundle_run(root, image.parent, tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    expected = np.array(list(entry["probabilities"].values()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - 0.5).max() > 1e-4  # not a network that says nothing


def test_radiograph_in_memory_is_segmented_as_its_file_is(
    deployed: Callable[[str], tuple[Path, Operator]],
    picture: np.ndarray,
    write_dicom: Callable[..., Path],
    tmp_path: Path,
) -> None:
    root, operator = deployed("cxr_segmentation")
    (tmp_path / "images").mkdir()
    image = write_dicom(picture, "images/a.dcm")
    (found,) = operator(*as_series_operator_gives_it(image))
    assert not (root / "eval").exists()  # Deploy saves by itself
    bundle_run(root, image.parent, tmp_path / "out")
    expected = np.asarray(Image.open(tmp_path / "out" / "a_mask.png"))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)


def test_volume_in_memory_is_segmented_as_its_file_is(
    deployed: Callable[[str], tuple[Path, Operator]], tmp_path: Path
) -> None:
    root, operator = deployed("sam_federated_segmentation")
    write_volumes(str(tmp_path / "volumes"), sites=1, patients_per_site=1, size=32, slices=6)
    images = tmp_path / "volumes" / "site_a" / "images"
    (path,) = images.iterdir()
    image = nibabel.load(path)
    # Deploy turns its series from (Z, Y, X) to this and says LPS, of an affine in RAS.
    affine, values = np.asarray(image.affine), np.asarray(image.dataobj)
    meta: dict[str, Any] = {"nifti_affine_transform": affine, MetaKeys.ORIGINAL_AFFINE: affine, "modality": "CT"}
    meta.update({MetaKeys.AFFINE: affine.copy(), MetaKeys.SPACE: SpaceKeys.LPS, "row_pixel_spacing": 1.0})
    meta.update({MetaKeys.SPATIAL_SHAPE: np.asarray(values.shape), MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel"})
    found = operator(values, meta)
    assert not (root / "eval").exists()
    bundle_run(root, images, tmp_path / "out")
    (mask,) = (tmp_path / "out").rglob("*_mask.nii.gz")
    expected = np.asarray(nibabel.load(mask).dataobj)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, np.swapaxes(expected, 0, 2))
