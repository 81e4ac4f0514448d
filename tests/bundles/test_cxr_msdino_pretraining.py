from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from bundle_runs import BUNDLES, export
from monai.bundle import ConfigWorkflow

from msdino_monai.backbone import BackboneError, read_backbone
from msdino_monai.images.cohort import write_cohort
from msdino_monai.pretraining import CurvesFile
from msdino_monai.settings import one_line_excepthook
from msdino_monai.vault.keygen import keygen

PRETRAIN = BUNDLES / "cxr_msdino_pretraining"
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_prototypes": 16,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "num_local": 2,
    "token_weight": 0.0,
    "batch_size": 4,
    "max_epochs": 3,
    "warmup_epochs": 1,
    "learning_rate": 0.05,
    "teacher_momentum": 0.5,
    "stop_on_collapse": False,
}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("coordinator", "stranger"):
        keygen(str(folder), "coordinator", name)
    lines = []
    for site in ("hospital_a", "hospital_b"):
        keygen(str(folder), "site", site)
        lines.append(f"{site} {(folder / f'{site}_signing_key.pub').read_text().strip()}")
    (folder / "trusted_sites").write_text("\n".join(lines) + "\n")
    (folder / "only_a").write_text(lines[0] + "\n")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small synthetic hospitals with their datalists."""
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(str(root), sites=2, patients_per_site=8, seed=3, image_size=96)
    return root


@pytest.fixture(scope="session")
def exports(cohort: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What they sent, signed and sealed for the coordinator."""
    folder = tmp_path_factory.mktemp("exports")
    for letter in "ab":
        export(
            cohort / f"site_{letter}" / "images",
            folder / letter,
            f"hospital_{letter}",
            recipient=(keys / "coordinator_recipient.txt").read_text().strip(),
            signing_key=str(keys / f"hospital_{letter}_signing_key.txt"),
        )
        (folder / f"{letter}.state").rename(folder.parent / f"{folder.name}_{letter}.state")
    return folder


@pytest.fixture
def settings(exports: Path, keys: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        **SMALL,
        "dataset_dir": str(exports),
        "output_dir": str(tmp_path / "out"),
        "identity": str(keys / "coordinator_identity.txt"),
        "trusted_sites": str(keys / "trusted_sites"),
    }


@pytest.fixture
def _without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CurvesFile, "draw", lambda *_: None)


def workflow(**settings: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(PRETRAIN / "configs" / "train.json"),
        meta_file=str(PRETRAIN / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(PRETRAIN),
        **settings,
    )


def train(**settings: Any) -> ConfigWorkflow:
    flow = workflow(**settings)
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


def start(settings: dict[str, Any], *launcher: str) -> subprocess.Popen[str]:
    """`python -m monai.bundle run`, as a user types it."""
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    config = ["--config_file", f"{PRETRAIN}/configs/train.json", "--bundle_root", str(PRETRAIN)]
    words = [sys.executable, "-m", *launcher, "monai.bundle", "run", *config, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(output_dir / "models" / "model.safetensors")


def curves(output_dir: Path) -> list[dict[str, str]]:
    """Without what a clock wrote."""
    rows = csv.DictReader((output_dir / "curves.csv").read_text().splitlines())
    return [{name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in rows]


def different(one: Path, other: Path) -> list[str]:
    """The weights that are not the same bit for bit."""
    found, expected = weights(one), weights(other)
    assert found.keys() == expected.keys()
    return [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]


@pytest.mark.usefixtures("_without_picture")
def test_model_says_what_it_is_and_who_made_it(settings: dict[str, Any], keys: Path, exports: Path) -> None:
    signing = str(keys / "coordinator_signing_key.txt")
    train(**settings, signing_key=signing)
    folder = Path(settings["output_dir"]) / "models"
    backbone = read_backbone(folder, coordinator_key=keys / "coordinator_signing_key.pub")
    with pytest.raises(BackboneError, match="not signed with the coordinator's key"):
        read_backbone(folder, coordinator_key=keys / "stranger_signing_key.pub")
    said = json.loads((folder / "model.json").read_text())
    manifests = {site["site_id"]: site for site in said["sites"]}
    assert manifests.keys() == {"hospital_a", "hospital_b"}
    for letter in "ab":
        site, data = manifests[f"hospital_{letter}"], (exports / letter / "manifest.json").read_bytes()
        assert site["manifest_sha256"] == hashlib.sha256(data).hexdigest()
        assert site["images"] == json.loads(data)["counts"]["images"]
        assert site["is_verified"]
    total = sum(site["images"] for site in said["sites"])
    assert said["trained"] == {"epochs": 3, "iterations": 3 * (total // 4), "images": total}
    assert {name: said["body"][name] for name in ("hidden_size", "mlp_dim", "num_layers", "num_heads")} == {
        name: SMALL[name] for name in ("hidden_size", "mlp_dim", "num_layers", "num_heads")
    }
    assert said["settings"]["teacher_momentum"] == 0.5
    assert said["settings"]["seed"] == 0
    assert backbone.state.keys() == weights(Path(settings["output_dir"])).keys()
    assert "embedding.weight" in backbone.state
    assert not any(name.startswith(("head", "teacher", "body.positions")) for name in backbone.state)
    plain = torch.load(folder / "model.pt", weights_only=True)
    assert all(torch.equal(tensor, backbone.state[name]) for name, tensor in plain.items())


@pytest.mark.usefixtures("_without_picture")
def test_probe_is_shown_and_disturbs_nothing(settings: dict[str, Any], cohort: Path, tmp_path: Path) -> None:
    site = cohort / "site_a"
    train(**settings)
    probed = {**settings, "output_dir": str(tmp_path / "probed"), "val_datalist": str(site / "datalist.json")}
    train(**probed, probe_every_epochs=2)
    assert different(tmp_path / "probed", tmp_path / "out") == []
    rows = curves(tmp_path / "probed")
    assert [bool(row["linear_auc"]) for row in rows] == [False, True, True]
    assert all(row["knn_auc"] == "nan" or 0 <= float(row["knn_auc"]) <= 1 for row in rows if row["knn_auc"])


def test_bundle_has_the_properties_monai_requires(settings: dict[str, Any]) -> None:
    flow = workflow(**settings)
    flow.initialize()
    assert flow.check_properties() == []


def epochs_done(output_dir: Path) -> int:
    """What a run has told of itself so far."""
    path = output_dir / "curves.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def wait_until(child: subprocess.Popen[str], output_dir: Path, epochs: int) -> None:
    deadline = time.monotonic() + 300
    while epochs_done(output_dir) < epochs:
        assert child.poll() is None, child.stderr and child.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_command_stopped_by_every_signal_arrives_at_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    """SIGTERM, SIGINT and kill -9 one after the other, then to the end; against one run without a stop."""
    settings |= {"max_epochs": 30, "checkpoint_every_iterations": 4, "token_weight": 0.5}
    output_dir, done = tmp_path / "out", 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        child = start(settings)
        wait_until(child, output_dir, done + 2)
        child.send_signal(number)
        _, errors = child.communicate(timeout=300)
        assert child.returncode != 0
        if number != signal.SIGKILL:
            assert errors.splitlines()[-1] == "interrupted; the same command goes on from here."
            assert "Traceback" not in errors
        done = epochs_done(output_dir)
        assert done < 30, "stopped too late to prove anything"
        assert not (output_dir / "models").exists()
    child = start(settings)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-2000:]
    assert "Going on after iteration" in errors
    undisturbed = {**settings, "output_dir": str(tmp_path / "undisturbed")}
    with torch.random.fork_rng():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train(**undisturbed)
        torch.set_num_threads(threads)
    assert different(output_dir, tmp_path / "undisturbed") == []
    assert curves(output_dir) == curves(tmp_path / "undisturbed")


def test_torchrun_trains_on_two_ranks(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"drop_path_rate": 0.0, "learning_rate": 0.002, "max_epochs": 2}
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    child = start({**settings, "batch_size": 4}, *torchrun)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-3000:]
    train(**{**settings, "output_dir": str(tmp_path / "alone"), "batch_size": 8})
    found, expected = curves(tmp_path / "out"), curves(tmp_path / "alone")
    for row, wanted in zip(found, expected, strict=True):
        assert float(row["loss"]) == pytest.approx(float(wanted["loss"]), rel=2e-3)
    assert weights(tmp_path / "out").keys() == weights(tmp_path / "alone").keys()


def said_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the command line shows of an error."""
    capsys.readouterr()
    one_line_excepthook(type(error), error, error.__traceback__)  # type: ignore[arg-type]
    return capsys.readouterr().err.splitlines()


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def items(*labels: Sequence[object]) -> dict[str, Any]:
    return {"training": [{"image": "a.dcm", "label": labels[0]}], "test": [{"image": "b.dcm", "label": labels[1]}]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"dataset_dir": "{tmp}/nowhere"}, "is no folder; name the folder a site sent"),
    "empty folder": ({"dataset_dir": "{tmp}"}, "holds no export (no manifest.json)"),
    "nothing given": ({"dataset_dir": ""}, "missing --dataset_dir"),
    "wrong key": (
        {"identity": "{keys}/stranger_identity.txt"},
        "is sealed for another key; give the identity it was sealed for",
    ),
    "no key": ({"identity": None}, "is sealed; give the identity file it was sealed for"),
    "untrusted site": ({"trusted_sites": "{keys}/only_a"}, "site hospital_b is not in trusted_sites"),
    "sizes that do not fit": ({"hidden_size": 17}, "hidden_size must be a multiple of num_heads 2, got 17"),
    "no whole number": ({"num_layers": 1.5}, "--num_layers must be a whole number"),
    "share beyond all": ({"local_share": 1.5}, "local_share must be in (0, 1], or two bounds in it, got 1.5"),
    "hidden share": ({"hidden_share": 1.0, "token_weight": 1.0}, "hidden shares must be below 1"),
    "targets": ({"targets": "mean"}, "--targets must be sinkhorn or centring, got 'mean'"),
    "large batch": ({"batch_size": 5000}, "do not fill one batch of 5000; set a smaller --batch_size"),
    "precision": ({"precision": "float16", "device": torch.device("cpu")}, "float16 needs a GPU"),
    "no signing key": ({"signing_key": "{tmp}/missing.txt"}, "missing.txt"),
    "no datalist": ({"val_datalist": "{tmp}/missing.json"}, "missing.json cannot be read"),
    "broken datalist": ({"val_datalist": "{tmp}/broken.json"}, "broken.json cannot be read"),
    "lengths": ({"val_datalist": "{tmp}/lengths.json"}, "labels of lengths [1, 2]"),
    "one section": ({"val_datalist": "{tmp}/one.json"}, "needs a training section"),
    "words": ({"val_datalist": "{tmp}/words.json"}, "a list of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_before_any_training(
    case: str, settings: dict[str, Any], keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "broken.json", "{")
    write(tmp_path / "lengths.json", items([1], [0, 1]))
    write(tmp_path / "one.json", {"test": items([1], [0])["test"]})
    write(tmp_path / "words.json", items(["yes"], ["no"]))
    changes, message = BAD[case]
    for name, value in changes.items():
        settings[name] = value.format(tmp=tmp_path, keys=keys) if isinstance(value, str) else value
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever MONAI wraps it in)
        train(**settings)
    (line,) = said_of(caught.value, capsys)
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.glob("out/checkpoints/*")), "nothing was trained"


@pytest.mark.parametrize(
    ("token_weight", "hidden_share", "learns"), [(1.0, 0.3, True), (1.0, 0.0, False), (0.0, 0.3, False)]
)
def test_token_head_is_there_only_where_something_teaches_it(
    token_weight: float, hidden_share: float, learns: bool, settings: dict[str, Any]
) -> None:
    """Ranks wait for the gradient of every parameter."""
    flow = workflow(**{**settings, "token_weight": token_weight, "hidden_share": hidden_share, "drop_path_rate": 0.0})
    flow.initialize()
    student, trainer = (flow.parser.get_parsed_content(name) for name in ("student", "train#trainer"))
    assert (student.token_head is not None) is learns
    subsets, _ = trainer.prepare_batch(next(iter(flow.parser.get_parsed_content("train#batches"))), "cpu")
    groups = [group for group in (subsets.large, subsets.small) if group is not None]
    said = student(groups, subsets.hidden)
    sum(part.square().sum() for part in (said.logits, said.token_logits) if part is not None).backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("how", ["altered", "mixed"])
def test_exports_that_cannot_be_trusted_are_refused(
    how: str,
    settings: dict[str, Any],
    exports: Path,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "exports"
    if how == "altered":
        for source in exports.rglob("*"):
            if source.is_file():
                target = folder / source.relative_to(exports)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
        shard = next((folder / "a" / "shards").iterdir())
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    else:
        images = tmp_path / "images"
        images.mkdir()
        for path in sorted((cohort / "site_a" / "images").iterdir())[:4]:
            (images / path.name).write_bytes(path.read_bytes())
        for number in range(2):
            export(images, folder / f"{number}", f"hospital_{number}", margin=number)
        settings |= {"allow_unsigned": True}
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever MONAI wraps it in)
        train(**{**settings, "dataset_dir": str(folder)})
    (line,) = said_of(caught.value, capsys)
    assert {"altered": "ask the site to send it again", "mixed": "exports differ in embedder_sha256"}[how] in line
    assert not list(tmp_path.glob("out/checkpoints/*"))


@pytest.mark.usefixtures("_without_picture")
def test_embedder_from_a_checkpoint_must_be_given_for_a_probe(
    settings: dict[str, Any], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((cohort / "site_a" / "images").iterdir())[:6]:
        (images / path.name).write_bytes(path.read_bytes())
    kernel = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32))
    torch.save({"patch_embed.proj.weight": kernel}, tmp_path / "vit.pt")
    export(images, tmp_path / "export", embedder_checkpoint=str(tmp_path / "vit.pt"))
    settings |= {"dataset_dir": str(tmp_path / "export"), "allow_unsigned": True}
    for changes, message in (
        ({"val_datalist": str(cohort / "site_a" / "datalist.json")}, "give it as --embedder_checkpoint"),
        ({"embedder_checkpoint": str(tmp_path / "missing.pt")}, "missing.pt"),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever MONAI wraps it in)
            train(**settings, **changes)
        (line,) = said_of(caught.value, capsys)
        assert message in line
        assert not list(tmp_path.glob("out/checkpoints/*"))
    train(**settings, embedder_checkpoint=str(tmp_path / "vit.pt"))
    assert "embedding.weight" in weights(tmp_path / "out")


def test_unknown_setting_gets_one_line(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["monai/bundle/__main__.py", "run", "--config_file", str(PRETRAIN / "configs" / "train.json")]
    monkeypatch.setattr(sys, "argv", [*command, "--learning_rat", "1"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the settings' check sets it
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever MONAI wraps it in)
        train(**settings)
    (line,) = said_of(caught.value, capsys)
    assert "did you mean --learning_rate?" in line
    assert not Path(settings["output_dir"]).exists()


# What may change between a run and its continuation: places, keys, and what no weight depends on.
FREE = {
    *("bundle_root", "dataset_dir", "output_dir", "identity", "trusted_sites", "allow_unsigned", "verify", "cache_dir"),
    *("signing_key", "embedder_checkpoint", "val_datalist", "val_dataset_dir", "probe_every_epochs", "compile"),
    *("checkpoint_blocks", "prefetch", "checkpoint_every_iterations", "keep_checkpoints", "stop_on_collapse"),
}


def test_every_setting_that_weights_depend_on_is_compared_on_resuming(settings: dict[str, Any]) -> None:
    config = json.loads((PRETRAIN / "configs" / "train.json").read_text())
    names = {
        name
        for name, value in config.items()
        if not isinstance(value, (dict, list)) and not name.startswith("_") and not str(value).startswith("$")
    }
    flow = workflow(**settings)
    flow.initialize()
    compared = flow.parser.get_parsed_content("checkpoints#settings")
    missing = {name for name in names - FREE if name not in compared and name not in compared["body"]}
    assert missing == {name for name in ("batch_size",) if name in names}, "batch_size is part of images_per_step"
