"""`monai.bundle.load` and workflows of a bundle, with nothing given but where it lies, or one line on what to give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigWorkflow
from small_bundle_parts import BUNDLES, NETWORKS

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.weight import draw_weights, network_of

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # a bundle is code, whoever loads it
ALL = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundles with random weights, small ones where the network's size is beside the model."""
    folder = tmp_path_factory.mktemp("zoo")
    for name in ALL:
        shutil.copytree(BUNDLES / name, folder / name, ignore=shutil.ignore_patterns("models", "eval"))
        bundle = Bundle(folder / name)
        if name not in NETWORKS:
            draw_weights(bundle)
            continue
        bundle.model.parent.mkdir()
        description = {"network": NETWORKS[name], "checkpoint": "random"}
        bundle.model.with_suffix(".network.json").write_text(json.dumps(description))
        torch.save(network_of(bundle).state_dict(), bundle.model)
    return folder


def load(zoo: Path, name: str, **given: Any) -> Any:
    args = {"logging_file": False, **given}
    return monai.bundle.load(
        name, bundle_dir=str(zoo), workflow_type="inference", device="cpu", net_override={}, args_file=args
    )


def cause_of(error: BaseException) -> BaseException:
    """What MONAI wrapped, and a traceback shows first."""
    return error if error.__cause__ is None else cause_of(error.__cause__)


@pytest.mark.parametrize("name", ALL)
def test_load_without_more_says_in_one_line_what_to_give(
    name: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        load(zoo, name)
    said = cause_of(raised.value)
    assert isinstance(said, UserError)
    wanted = "bundle_root, the bundle's folder" if name in NETWORKS else "a program gives"
    assert wanted in str(said)
    assert "args_file" in str(said)
    assert "\n" not in str(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*NETWORKS, "cxr_msdino_pretraining"])
def test_load_needs_no_images(name: str, zoo: Path, tmp_path: Path) -> None:
    network = load(zoo, name, bundle_root=str(zoo / name), output_dir=str(tmp_path / "out"))
    state = torch.load(zoo / name / "models" / "model.pt", weights_only=True)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_workflow_works_from_the_bundles_own_folder_and_asks_for_images_when_it_runs(
    name: str, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(zoo / name)
    config = str(Path("configs") / "inference.json")
    flow = ConfigWorkflow(config_file=config, workflow_type="inference", logging_file=False)
    flow.initialize()
    assert isinstance(flow.network_def, torch.nn.Module)
    with pytest.raises(RuntimeError) as raised:
        flow.run()
    assert "is not a folder; give the folder that holds the images" in str(cause_of(raised.value))
