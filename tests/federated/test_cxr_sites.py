from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from msdino_monai.federated.aggregation import fedavg
from msdino_monai.federated.site import Site
from msdino_monai.federated.workplace import build_site
from msdino_monai.images.cohort import write_cohort

BUNDLES = Path(__file__).parents[2] / "bundles"
SMALL = {"img_size": 64, "embedding_dim": 16, "hidden_size": 24, "mlp_dim": 48, "num_layers": 1, "num_heads": 2}
SMALL = {**SMALL, "batch_size": 4, "warmup_epochs": 0, "learning_rate": 0.003, "rounds": 2, "local_epochs": 1}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(str(folder), sites=2, patients_per_site=8, image_size=64)
    return folder


def sites(bundle: str, cohort: Path, folder: Path) -> list[Site]:
    more = {"feature_size": 4} if bundle == "cxr_segmentation" else {}
    return [
        build_site(BUNDLES / bundle, cohort / name, folder / name, {**SMALL, **more, "trainable_pattern": None})
        for name in ("site_a", "site_b")
    ]


@pytest.mark.parametrize("bundle", ["cxr_classification", "cxr_segmentation"])
def test_two_sites_share_a_network_round_by_round(bundle: str, cohort: Path, tmp_path: Path) -> None:
    members = sites(bundle, cohort, tmp_path)
    assert members[0].base() == members[1].base()
    assert members[0].agreement == members[1].agreement
    tensors = members[0].tensors()
    assert set(tensors) == set(members[1].tensors())
    losses = []
    for number in (1, 2):
        before = tensors
        trained = [site.train(tensors, number) for site in members]
        tensors = fedavg(trained, [site.images for site in members])
        assert any(not torch.equal(tensors[name], before[name]) for name in tensors)
        metrics = members[0].validate(tensors)
        assert members[0].key_metric in metrics
        losses.append(metrics)
    assert torch.equal(members[0].train(before, 2)["".join(list(tensors)[:1])], trained[0][next(iter(tensors))])
    assert not any((tmp_path / name / "checkpoints").exists() for name in ("site_a", "site_b"))
    assert not any((tmp_path / name / "models").exists() for name in ("site_a", "site_b"))
    members[0].save(tensors, tmp_path / "global")
    state = torch.load(tmp_path / "global" / "model.pt", weights_only=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "global" / "model.network.json").exists()
    for site in members:
        site.finish()
    assert not any((tmp_path / name / "cache").exists() for name in ("site_a", "site_b"))
    assert losses


def test_evaluator_sees_the_network_itself_and_no_average(cohort: Path, tmp_path: Path) -> None:
    for bundle in ("cxr_classification", "cxr_segmentation"):
        site = sites(bundle, cohort, tmp_path / bundle)[0]
        assert site.evaluator.network is site.network


@pytest.mark.parametrize("bundle", ["cxr_classification", "cxr_segmentation"])
def test_weight_of_a_site_counts_what_it_can_use(bundle: str, cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort, tmp_path / "cohort")
    folder = tmp_path / "cohort" / "site_a"
    listed = json.loads((folder / "datalist.json").read_text())["training"]
    whole = (folder / listed[0]["image"]).read_bytes()
    (folder / listed[0]["image"]).write_bytes(b"no image")
    site = sites(bundle, tmp_path / "cohort", tmp_path)[0]
    assert site.images == len(listed)
    site.train(site.tensors(), 1)
    assert site.images == len(listed) - 1
    (folder / listed[0]["image"]).write_bytes(whole)
    site = sites(bundle, tmp_path / "cohort", tmp_path)[0]  # mended, and the federation begins again
    site.train(site.tensors(), 1)
    assert site.images == len(listed)
