"""MLflow by MONAI's `--tracking`; here, because MONAI Label's environment has it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from label_bundle import LABEL_BUNDLES, LabelBundle
from label_workshop import Workshop

BUNDLES = Path(__file__).parents[2] / "bundles"


def tracked(bundle: LabelBundle, configs: list[str], output_dir: Path, data: Path, **settings: object) -> set[str]:
    """The names of the metrics that a run with tracking wrote."""
    folder = BUNDLES / bundle.name
    given = {"dataset_dir": data, "output_dir": output_dir, **settings}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    files = str([str(folder / "configs" / name) for name in configs])
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", str(folder)]
    ended = subprocess.run(
        [*start, *flags, "--tracking", str(folder / "configs" / "mlflow.json")], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    with sqlite3.connect(output_dir / "mlruns.db") as database:
        assert database.execute("select name from experiments where name = ?", [bundle.name]).fetchall()
        return {name for (name,) in database.execute("select distinct key from metrics")}


@pytest.mark.parametrize("bundle", LABEL_BUNDLES, ids=lambda bundle: bundle.name)
def test_losses_and_metrics_reach_mlflow(bundle: LabelBundle, workshop: Workshop, tmp_path: Path) -> None:
    data = workshop.data(bundle)
    output_dir = tmp_path / "trained"
    found = tracked(bundle, ["train.json"], output_dir, data, **{**bundle.training, "max_epochs": 1})
    assert "train_loss" in found
    assert found & {"mean_auc", "val_mean_dice"}
    model = output_dir / "models" / "model.pt"
    found = tracked(bundle, ["train.json", "evaluate.json"], tmp_path / "tried", data, model=model, num_workers=0)
    assert found & {"mean_auc", "mean_dice"}


def test_every_bundle_tracks_in_the_same_way() -> None:
    pages = {path.parents[1].name: json.loads(path.read_text()) for path in BUNDLES.glob("*/configs/mlflow.json")}
    assert {bundle.name for bundle in LABEL_BUNDLES} <= pages.keys()
    for name, page in pages.items():
        assert page["configs"].pop("experiment_name") == name
    assert all(page == pages["cxr_segmentation"] for page in pages.values())
