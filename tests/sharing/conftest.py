"""A bundle small enough to be packed and verified in seconds, and its package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_bundle_parts import BUNDLES, CLASSES, change_metadata

from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.pack import pack
from msdino_monai.sharing.weight import network_of
from msdino_monai.vault.keygen import keygen


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pictures of 32 pixels, with weights and a calibration."""
    root = tmp_path_factory.mktemp("sharing") / "tiny_classification"
    shutil.copytree(BUNDLES / "cxr_classification", root)
    said = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]
    said["inputs"]["image"]["spatial_shape"] = [32, 32]
    change_metadata(root, network_data_format=said, version="0.1.0", changelog={"0.1.0": "first version"})
    (root / "models").mkdir()
    sizes = {"img_size": 32, "patch_size": 8, "hidden_size": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2}
    (root / "models" / "model.network.json").write_text(json.dumps({"network": sizes, "classes": CLASSES}))
    calibration = {"task": "multi_label", "temperature": 2.5, "thresholds": dict.fromkeys(CLASSES, 0.3)}
    (root / "models" / "model.calibration.json").write_text(json.dumps(calibration))
    torch.manual_seed(0)
    torch.save(network_of(Bundle(root)).state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("maker", "stranger"):
        keygen(str(folder), "site", name)
    return folder


@pytest.fixture(scope="session")
def package(bundle: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, packed and signed."""
    pytest.importorskip("onnxscript", reason="the ONNX exporter needs onnxscript")
    folder = tmp_path_factory.mktemp("dist")
    pack(str(bundle), output_dir=str(folder), signing_key=str(keys / "maker_signing_key.txt"))
    return folder / "tiny_classification_v0.1.0.zip"
