"""Bundles inside other people's programs."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from bundle_runs import BUNDLES, workflow

from msdino_monai.images.abdomen import write_volumes
from msdino_monai.images.cohort import write_cohort
from msdino_monai.networks.classifier import Classifier
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.weight import network_of
from msdino_monai.vault.keygen import keygen

EXAMPLES = BUNDLES.parent / "examples"
TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "batch_size": 4,
    "max_epochs": 1,
    "warmup_epochs": 0,
    "num_workers": 0,
}
MONAI_WARNS = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # a bundle is code, whoever loads it


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hybrid")
    write_cohort(str(root), sites=1, patients_per_site=8, seed=3, image_size=64)
    return root / "site_a"


def with_weights(name: str, folder: Path) -> Path:
    """A copy of a bundle with tiny random weights in it."""
    root = folder / name
    shutil.copytree(BUNDLES / name, root)
    (root / "models").mkdir()
    sizes = {key: TINY[key] for key in ("img_size", "patch_size", "hidden_size", "mlp_dim", "num_layers", "num_heads")}
    (root / "models" / "model.network.json").write_text(json.dumps({"network": sizes}))
    torch.save(network_of(Bundle(root)).state_dict(), root / "models" / "model.pt")
    return root


def example(name: str) -> Any:
    """The example's module, from its file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bundles_folder_can_stand_in_for_the_zoos() -> None:
    """Nothing but bundles, and the list of what was published, which the zoo's own checks read."""
    assert json.loads((BUNDLES / "model_info.json").read_text()) == {}
    for path in BUNDLES.iterdir():
        assert path.name == "model_info.json" or (path / "configs" / "metadata.json").is_file(), path
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {path.name for path in BUNDLES.iterdir() if path.is_dir()}


@MONAI_WARNS
def test_monai_loads_network_and_weights(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = with_weights("cxr_classification", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    network = monai.bundle.load(
        "cxr_classification",
        bundle_dir=str(tmp_path),
        workflow_type="inference",
        device="cpu",
        args_file={"bundle_root": str(root), "dataset_dir": str(site / "images"), "logging_file": False},
    )
    assert isinstance(network, Classifier)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@MONAI_WARNS
def test_monai_creates_a_workflow_with_overrides(site: Path, tmp_path: Path) -> None:
    flow = monai.bundle.create_workflow(
        config_file=str(BUNDLES / "cxr_segmentation" / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLES / "cxr_segmentation"),
        dataset_dir=str(site),
        output_dir=str(tmp_path),
        **{
            **TINY,
            "train#trainer#max_epochs": 3,
            "train#inferer": {"_target_": "SlidingWindowInferer", "roi_size": 32},
        },
    )
    assert flow.max_epochs == 3
    assert type(flow.train_inferer).__name__ == "SlidingWindowInferer"
    flow.finalize()


@pytest.mark.parametrize(
    "order", [("cxr_classification", "cxr_segmentation"), ("cxr_segmentation", "cxr_classification")]
)
def test_two_bundles_share_a_process_in_any_order_from_anywhere(
    order: Sequence[str], site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    flows = []
    for name in order:  # both begin before either runs
        root = with_weights(name, tmp_path)
        given = {"dataset_dir": str(site / "images"), "output_dir": str(tmp_path / f"{name}_out"), "num_workers": 0}
        flows.append(workflow(root, **given))
        flows[-1].initialize()
    for flow in flows:
        flow.run()
        flow.finalize()
    images = {path.name for path in (site / "images").iterdir()}
    found = json.loads((tmp_path / "cxr_classification_out" / "predictions.json").read_text())["predictions"]
    assert {entry["file"] for entry in found} == images
    assert len(list((tmp_path / "cxr_segmentation_out").glob("*_mask*"))) == len(images)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_classification_example_predicts(site: Path, tmp_path: Path) -> None:
    found = example("cxr_classification").train_and_infer(
        str(site), str(site / "images"), str(tmp_path), **TINY, bootstrap_repeats=20
    )
    assert len(found["predictions"]) == len(list((site / "images").iterdir()))


def test_segmentation_example_measures_both_lungs(site: Path, tmp_path: Path) -> None:
    image = str(sorted((site / "images").iterdir())[0])
    shares = example("cxr_segmentation").train_and_segment(str(site), image, str(tmp_path), **TINY, feature_size=4)
    assert set(shares) == {"right_lung", "left_lung"}
    assert all(0 <= share <= 1 for share in shares.values())


def test_export_and_pretraining_examples_follow_each_other(site: Path, tmp_path: Path) -> None:
    keygen(str(tmp_path / "keys"), "coordinator", "coordinator")
    recipient = (tmp_path / "keys" / "coordinator_recipient.txt").read_text().strip()
    small = {"img_size": 64, "embedding_dim": 16, "num_workers": 0}
    counts = example("cxr_embedding_export").export(
        str(site / "images"), str(tmp_path / "exports" / "a"), recipient, state_dir=str(tmp_path / "state"), **small
    )
    images = len(list((site / "images").iterdir()))
    assert counts["images"] == images
    body = {name: TINY[name] for name in ("hidden_size", "mlp_dim", "num_layers", "num_heads")}
    head = {"num_prototypes": 16, "head_dim": 16, "bottleneck_dim": 8, "token_weight": 0.0, "stop_on_collapse": False}
    features = example("cxr_msdino_pretraining").pretrain_and_embed(
        str(tmp_path / "exports"),
        str(site / "images"),
        str(tmp_path / "out"),
        **{**body, **head, "batch_size": 4, "max_epochs": 1, "warmup_epochs": 0},
        identity=str(tmp_path / "keys" / "coordinator_identity.txt"),
        allow_unsigned=True,
    )
    assert features.shape == (images, 16)


def test_volume_example_writes_masks(tmp_path: Path) -> None:
    write_volumes(str(tmp_path / "volumes"), sites=1, patients_per_site=4, size=32, slices=5)
    site = tmp_path / "volumes" / "site_a"
    tiny = {"size": "tiny", "image_size": 32, "rank": 4, "stacks_per_volume": 2, "max_epochs": 1, "num_workers": 0}
    masks = example("sam_federated_segmentation").adapt_and_segment(
        str(site), str(site / "images"), str(tmp_path / "out"), **tiny
    )
    assert len(masks) == 4
