from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from small_bundle import write_bundle, write_sites

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.federated.error import ShareableError
from msdino_monai.federated.federate import _refuse_own_paths, _settings, federate
from msdino_monai.federated.plan import read_plan
from msdino_monai.federated.workplace import keep_errors_here, said_to_others
from msdino_monai.vault.atomic import Lock


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    return {
        "bundle": str(write_bundle(tmp_path)),
        "sites_dir": str(write_sites(tmp_path / "sites")),
        "rounds": 2,
        "output_dir": str(tmp_path / "out"),
    }


def refused(capsys: pytest.CaptureFixture[str], place: dict[str, Any], **flags: Any) -> str:
    words = [f"--{name}={value}" for name, value in {**place, **flags}.items() if value is not None]
    assert main(["federate", *words]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"bundle": "nowhere"}, "name a bundle that can be federated"),
        ({"sites_dir": "nowhere"}, "is no folder"),
        ({"rounds": 0}, "--rounds must be a whole number of at least 1, got 0"),
        ({"local_epochs": "many"}, "--local_epochs must be a whole number"),
        ({"env": "cloud"}, "unknown --env 'cloud'; it is sim or poc"),
        ({"strategy": "best"}, "unknown --strategy 'best'; it is one of: fedavg, flap"),
        ({"transport": "fp16"}, "unknown --transport 'fp16'"),
        ({"min_sites": 4}, "--min_sites 4 is more than there are sites"),
        ({"trainable": "nothing"}, "give another --trainable pattern"),
        ({"trainable": "lora_("}, "is no regular expression"),
        ({"output_dir": None}, "missing --output_dir"),
        ({"sites": "a,server"}, "'server' cannot be a site's name"),
        ({"sites": "a,localhost"}, "'localhost' cannot be a site's name"),
        ({"sites": "Aggregated"}, "'Aggregated' cannot be a site's name"),
        ({"silent_after": 0}, "--silent_after must be at least 1 second, got 0"),
        ({"sites": "a,a"}, "each name once"),
        ({"sites": "a b"}, "letters, digits"),
        ({"set": "widht=3"}, "'widht' is no setting of small_bundle"),
        ({"set": "width"}, "is no name=value"),
        ({"set": "settings.json"}, "cannot be read as JSON"),
        ({"collect": "nowhere.safetensors"}, "does not belong to this bundle"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], place: dict[str, Any], flags: dict[str, Any], said: str
) -> None:
    assert said in refused(capsys, place, **flags)


def test_paths_of_the_coordinator_do_not_go_into_a_job(
    capsys: pytest.CaptureFixture[str], place: dict[str, Any], tmp_path: Path
) -> None:
    said = refused(capsys, place, export_job=str(tmp_path / "jobs"), set=f"fault={tmp_path}/sites")
    assert "is a path on this machine; set fault at each site, and here too" in said
    assert "MSDINO_SITE_SETTINGS" in said
    assert not (tmp_path / "jobs" / "small_bundle").exists()


def test_output_folder_serves_one_federation_at_a_time(
    capsys: pytest.CaptureFixture[str], place: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with Lock(tmp_path / "out" / ".lock"):
        assert "is in use by another federation" in refused(capsys, place)


def test_folders_without_sites_are_refused(
    capsys: pytest.CaptureFixture[str], place: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "there are no sites" in refused(capsys, place, sites_dir=str(tmp_path / "empty"))


def test_exported_job_holds_plan_bundle_and_initial_tensors(place: dict[str, Any], tmp_path: Path) -> None:
    assert federate(**place, export_job=str(tmp_path / "jobs"), set="width=4,fault=", sites="north,south") == 0
    job = tmp_path / "jobs" / "small_bundle"
    plan = json.loads((job / "app_north" / "custom" / "federation.json").read_text())
    assert plan == json.loads((job / "app_server" / "custom" / "federation.json").read_text())
    assert plan["sites"] == ["north", "south"]
    assert plan["strategy"] == "flap"
    assert plan["settings"]["width"] == 4
    assert len(plan["base"]) == 64
    assert not (job / "app_north" / "custom" / "initial.safetensors").exists()
    script = (job / "app_south" / "custom" / "msdino_site.py").read_text()
    assert "msdino_monai.federated.client" in script
    client = json.loads((job / "app_south" / "config" / "config_fed_client.json").read_text())
    assert client["executors"][0]["executor"]["args"]["task_script_path"] == "msdino_site.py"
    assert not any("msdino_monai" in path.parts for path in job.rglob("*"))


def test_first_tensors_are_those_of_the_coordinators_own_settings(
    place: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a base checkpoint, which is a path and may not be in the job."""
    (tmp_path / "own.json").write_text(json.dumps({"width": 4, "fault": "/models/base.pth:1:nan"}))
    monkeypatch.setenv("MSDINO_SITE_SETTINGS", str(tmp_path / "own.json"))
    assert federate(**place, export_job=str(tmp_path / "jobs"), set="width=8") == 0
    custom = tmp_path / "jobs" / "small_bundle" / "app_server" / "custom"
    assert safetensors.torch.load_file(custom / "initial.safetensors")["head.weight"].shape == (3, 4)
    assert read_plan(custom).settings == {"width": 8}
    assert not any(b"base.pth" in path.read_bytes() for path in custom.parents[1].rglob("*") if path.is_file())


def test_result_of_a_production_server_becomes_the_bundles_model(place: dict[str, Any], tmp_path: Path) -> None:
    tensors = {
        "base.lora_a": torch.ones(2, 12),
        "base.lora_b": torch.ones(16, 2),
        "head.weight": torch.ones(3, 16),
        "head.bias": torch.full((3,), 7.0),
    }
    safetensors.torch.save_file(tensors, tmp_path / "best.safetensors")
    assert federate(**place, collect=str(tmp_path / "best.safetensors")) == 0
    model = torch.load(tmp_path / "out" / "global" / "model.pt", weights_only=True)
    assert model["head.bias"].tolist() == [7, 7, 7]


def test_hospital_sends_only_sentences_written_to_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    error = UserError("datalist has patient Doe^Jane 1951-03-04 twice; correct it")
    monkeypatch.setenv("MSDINO_SITES_DIR", "/data")
    assert said_to_others(error) == str(error)  # one machine that plays all sites
    monkeypatch.setenv("MSDINO_DATASET_DIR", "/data")
    assert said_to_others(error) == "UserError at this site; the whole line is in its own log"
    assert said_to_others(ShareableError("head.bias is not finite")) == "head.bias is not finite"


def test_log_that_flare_sends_away_stays_empty_at_a_hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [tmp_path / "log.txt", tmp_path / "error_log.txt"]
    handlers = [logging.FileHandler(path) for path in logs]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    keep_errors_here()
    logging.getLogger("a library").error("Doe^Jane.dcm is missing")
    for handler in handlers:
        handler.close()
    assert [path.read_text() for path in logs] == ["Doe^Jane.dcm is missing\n", ""]


def test_edited_config_is_another_federation(place: dict[str, Any], tmp_path: Path) -> None:
    plans = []
    for rate in ("0.02", "0.9"):
        config = Path(place["bundle"]) / "configs" / "train.json"
        config.write_text(config.read_text().replace('"learning_rate": 0.02', f'"learning_rate": {rate}'))
        assert federate(**place, export_job=str(tmp_path / rate)) == 0
        plans.append(read_plan(tmp_path / rate / "small_bundle" / "app_server" / "custom"))
    assert plans[0].settings == plans[1].settings
    assert plans[0].digest() != plans[1].digest()


def test_word_stays_a_word_where_a_folder_is_called_so(
    place: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "base.pth").touch()
    monkeypatch.chdir(tmp_path)
    bundle = Path(place["bundle"])
    assert _settings(bundle, "fault=tiny") == {"fault": "tiny"}
    assert _settings(bundle, "fault=./tiny") == {"fault": str(tmp_path / "tiny")}
    assert _settings(bundle, "fault=base.pth") == {"fault": str(tmp_path / "base.pth")}


@pytest.mark.parametrize(
    "value", [["a", "/home/me/x.pth"], {"a": [{"b": "~/x.pth"}]}, "$torch.load('/home/me/x.pth')", "~/x.pth"]
)
def test_paths_deep_in_settings_do_not_go_into_a_job(value: Any) -> None:
    with pytest.raises(UserError, match=r"fault=.*x\.pth is a path on this machine"):
        _refuse_own_paths({"fault": value})


@pytest.mark.parametrize("value", ["tiny", 3, ["a/b"], "$@width / 2", "$'a/b'.rpartition('/')", None])
def test_settings_without_paths_go_into_a_job(value: Any) -> None:
    _refuse_own_paths({"fault": value})
