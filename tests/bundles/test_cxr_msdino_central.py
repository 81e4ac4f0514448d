"""central.json behind train.json: DINO's own crops of images that lie in one place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import BUNDLES
from monai.bundle import ConfigWorkflow

from msdino_monai.backbone import read_backbone
from msdino_monai.errors import UserError
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.pretraining import CurvesFile

PRETRAIN = BUNDLES / "cxr_msdino_pretraining"
CLASSIFY = BUNDLES / "cxr_classification"
SIZES = {"hidden_size": 16, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
SMALL: dict[str, Any] = {
    **SIZES,
    "num_prototypes": 16,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "embedding_dim": 32,
    "img_size": 64,
    "batch_size": 4,
    "max_epochs": 2,
    "warmup_epochs": 1,
    "stop_on_collapse": False,
}


def run(bundle: Path, configs: list[str], kind: str = "train", **settings: Any) -> ConfigWorkflow:
    flow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in configs],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        **settings,
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospitals")
    write_cohort(str(root), sites=2, patients_per_site=8, seed=5, image_size=80)
    return root


def test_body_of_pooled_images_is_fine_tuned_like_any_other(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CurvesFile, "draw", lambda *_: None)
    output = tmp_path / "central"
    given = {**SMALL, "dataset_dir": str(hospitals), "output_dir": str(output)}
    run(PRETRAIN, ["train.json", "central.json"], **given)
    backbone = read_backbone(output / "models")
    assert backbone.description is not None
    assert [site["site_id"] for site in backbone.description["sites"]] == ["site_a", "site_b"]
    assert backbone.description["embedder"]["position_scale"] == 0.5

    with pytest.raises(RuntimeError) as refused:
        run(PRETRAIN, ["train.json", "central.json"], **{**given, "global_area": 0.9})
    cause: BaseException | None = refused.value
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    assert "global_area" in str(cause)

    site = hospitals / "site_a"
    settings = {
        "dataset_dir": str(site),
        "output_dir": str(tmp_path / "classifier"),
        "backbone": str(output / "models"),
    }
    flow = run(CLASSIFY, ["train.json"], img_size=64, max_epochs=1, batch_size=4, num_workers=0, **settings)
    body = flow.network_def.encoder.body.state_dict()
    assert body.pop("positions").any()  # started at zero, and learnt
    pretrained = {name.removeprefix("body."): t for name, t in backbone.state.items() if name.startswith("body.")}
    assert {name: t.shape for name, t in body.items()} == {name: t.shape for name, t in pretrained.items()}
    assert all(torch.isfinite(tensor).all() for tensor in body.values())


def test_quarantine_is_that_of_the_run_and_is_told_at_its_end(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CurvesFile, "draw", lambda *_: None)
    shutil.copytree(hospitals, tmp_path / "hospitals")
    site, output = tmp_path / "hospitals" / "site_a", tmp_path / "central"
    item = json.loads((site / "datalist.json").read_text())["training"][0]
    whole = (site / item["image"]).read_bytes()
    (site / item["image"]).write_bytes(b"no image")
    given = {**SMALL, "dataset_dir": str(site.parent), "output_dir": str(output), "max_epochs": 1}
    run(PRETRAIN, ["train.json", "central.json"], **given)
    assert [row["file"] for row in Quarantine(output).rejected()] == [item["image"]]
    assert f"1 quarantined, see {output / 'quarantine.csv'}" in capsys.readouterr().out

    given = {"dataset_dir": str(site), "backbone": str(output / "models"), "num_workers": 0}
    given |= {"output_dir": str(tmp_path / "features"), "datalist": str(site / "datalist.json")}
    for configs in (["inference.json"], ["inference.json", "evaluate.json"]):
        run(PRETRAIN, configs, "inference", **given)
        assert [row["file"] for row in Quarantine(tmp_path / "features").rejected()] == [item["image"]]
    (site / item["image"]).write_bytes(whole)
    for configs in (["inference.json"], ["inference.json", "evaluate.json"]):
        (tmp_path / "features" / "quarantine.csv").write_text("file,step,reason,what to do\nold,,,\n")
        run(PRETRAIN, configs, "inference", **given)
        assert Quarantine(tmp_path / "features").summary() == ""
