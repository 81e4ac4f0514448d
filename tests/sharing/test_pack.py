from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_bundle_parts import BUNDLES, change_metadata

from msdino_monai import __version__
from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.card import model_card
from msdino_monai.sharing.pack import staged_copy
from msdino_monai.sharing.trace import refuse_own_paths
from msdino_monai.sharing.wheel import write_wheel
from msdino_monai.vault.atomic import hash_file

WHEEL = f"msdino_monai-{__version__}-py3-none-any.whl"
ABOUT = f"msdino_monai-{__version__}.dist-info"


class Surprise:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("executed",)


def content(package: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def test_package_holds_the_network_in_every_form(package: Path, bundle: Path) -> None:
    files = content(package)
    expected = {
        *("LICENSE", "manifest.json", "docs/README.md", "docs/model_card.md", f"wheels/{WHEEL}"),
        *(f"models/model.{kind}" for kind in ("pt", "ts", "onnx", "safetensors", "network.json", "calibration.json")),
        *(path.relative_to(bundle).as_posix() for path in (bundle / "configs").iterdir()),
    }
    assert files.keys() == expected
    assert (package.parent / WHEEL).read_bytes() == files[f"wheels/{WHEEL}"]
    state = torch.load(io.BytesIO(files["models/model.pt"]), weights_only=True)
    same = safetensors.torch.load(files["models/model.safetensors"])
    assert state.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())
    with zipfile.ZipFile(io.BytesIO(files["models/model.ts"])) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]
        inference = json.loads(archive.read("model/extra/inference.json"))
    assert inference == json.loads((bundle / "configs" / "inference.json").read_text())


def test_same_input_gives_the_same_bytes(package: Path, bundle: Path, keys: Path, tmp_path: Path) -> None:
    """From another checkout, folder and umask; all but the wheel, which holds the checkout as it is at that moment."""
    moved, checkout = tmp_path / "else where" / bundle.name, tmp_path / "other checkout"
    shutil.copytree(bundle, moved)
    shutil.copytree(BUNDLES.parent / "msdino_monai", checkout / "msdino_monai")
    (moved / "eval").mkdir()  # what a run left there is nobody's business
    (moved / "eval" / "predictions.csv").write_text("patient")
    (moved / "cases.csv").write_text("patient")
    command = [sys.executable, "-m", "msdino_monai", "pack", bundle.name, "--output_dir", str(tmp_path)]
    subprocess.run(
        [*command, "--signing_key", str(keys / "maker_signing_key.txt")],
        cwd=moved.parent,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        umask=0o077,
        check=True,
    )
    first, second = content(package), content(tmp_path / package.name)
    assert list(first) == list(second)
    differ = {name for name in first if first[name] != second[name]}
    assert differ <= {"manifest.json", f"wheels/{WHEEL}"}
    with zipfile.ZipFile(tmp_path / package.name) as archive:
        assert {(info.date_time, info.external_attr >> 16) for info in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }
    assert not list(moved.rglob("*.ts"))


def test_no_path_of_this_machine_is_inside(package: Path, bundle: Path, tmp_path: Path) -> None:
    for name, data in content(package).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    refuse_own_paths(tmp_path, [bundle, Path(sys.prefix)])
    (tmp_path / "docs" / "notes.md").write_text(f"trained in {bundle}/models")
    with pytest.raises(UserError, match="holds the path"):
        refuse_own_paths(tmp_path, [bundle])


@pytest.mark.parametrize(
    "path",
    [
        "/home/somebody/x.pt",
        "/Users/some.body/x",
        "/home/jürgen body/x",
        r"c:\users\Jane Body\x",
        r"C:\Users\body\x",
        r"C:\\Users\\body\\x",
    ],
)
def test_no_home_of_another_machine_is_inside(path: str, tmp_path: Path) -> None:
    (tmp_path / "model.network.json").write_text(f'{{"backbone": "{path}"}}', encoding="utf-8")
    with pytest.raises(UserError, match="ody; take it out"):
        refuse_own_paths(tmp_path, [])
    (tmp_path / "model.network.json").write_text('{"see": "https://example.org/home/page and /home/"}')
    refuse_own_paths(tmp_path, [])


def test_wheel_installs_as_this_package(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_wheel(tmp_path)) as wheel:
        names = set(wheel.namelist())
        record = wheel.read(f"{ABOUT}/RECORD").decode().splitlines()
    assert {"msdino_monai/__init__.py", "msdino_monai/py.typed", f"{ABOUT}/METADATA"} <= names
    assert {line.split(",")[0] for line in record} == names
    assert not [name for name in names if "__pycache__" in name]


def test_model_card_has_the_evaluation_of_these_weights_only(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / bundle.name
    shutil.copytree(bundle, root)
    metrics = {
        "section": "test",
        "model": "/home/somebody/model.pt",
        "model_sha256": hash_file(root / "models" / "model.pt"),
        "mean": {"auc": {"value": 0.75, "interval": [0.5, 0.875]}, "sensitivity": {"value": None, "interval": None}},
        "images": 12,
    }
    (root / "eval").mkdir()
    (root / "eval" / "metrics.json").write_text(json.dumps(metrics))
    card = model_card(Bundle(root), "As trained")
    assert "| mean: auc | 0.75 | 0.5 to 0.875 |" in card
    assert "| mean: sensitivity | undefined | - |" in card
    assert "| images | 12 | - |" in card
    assert "somebody" not in card
    assert "bilateral_opacities" in card
    (root / "eval" / "metrics.json").write_text(json.dumps({**metrics, "model_sha256": "0" * 64}))
    with pytest.raises(UserError, match="was not measured with"):
        model_card(Bundle(root), "As trained")


def spoil(root: Path, how: str) -> None:
    """One thing that must not be packed."""
    model = root / "models" / "model.pt"
    if how == "no metadata":
        (root / "configs" / "metadata.json").unlink()
    elif how == "broken metadata":
        (root / "configs" / "metadata.json").write_text("{")
    elif how == "wrong version":
        change_metadata(root, version="9.9.9")
    elif how == "nan":
        state = torch.load(model, weights_only=True)
        next(iter(state.values())).view(-1)[0] = float("nan")
        torch.save(state, model)
    elif how == "pickle":
        torch.save({"weights": torch.zeros(1), "extra": Surprise()}, model)
    elif how == "no weights":
        shutil.rmtree(model.parent)
    elif how == "junk":
        (root / "scripts").mkdir()
        (root / "scripts" / "net.py").write_text("")
    elif how == "no readme":
        (root / "docs" / "README.md").unlink()
    elif how == "no inference":
        (root / "configs" / "inference.json").write_text("{")
    elif how == "no shape":
        said = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]
        del said["inputs"]["image"]["spatial_shape"]
        change_metadata(root, network_data_format=said)
    elif how == "no output":
        said = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]
        change_metadata(root, network_data_format={"inputs": said["inputs"]})
    elif how == "compressed":
        with zipfile.ZipFile(io.BytesIO(model.read_bytes())) as stored, zipfile.ZipFile(model, "w") as target:
            for info in stored.infolist():
                target.writestr(info.filename, stored.read(info), zipfile.ZIP_DEFLATED)
    elif how == "broken description":
        (root / "models" / "model.network.json").write_text("{")
    elif how == "list for a description":
        (root / "models" / "model.network.json").write_text("[]")
    elif how == "sizes that do not fit":
        (root / "models" / "model.network.json").write_text('{"network": {"img_size": 33}}')
    elif how == "broken link":
        (root / "docs" / "more.md").symlink_to("nowhere.md")
    elif how == "other network":
        torch.save({"weights": torch.zeros(1)}, model)
    elif how == "link":
        (root / "configs" / "more.json").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no metadata", "configs/metadata.json is missing"),
        ("broken metadata", "configs/metadata.json is no JSON"),
        ("wrong version", "version 9.9.9 is not in metadata.json's changelog"),
        ("nan", "holds NaN or infinite numbers"),
        ("pickle", "does not load as plain tensors"),
        ("no weights", "configs/train.json"),
        ("junk", "scripts/net.py: unexpected in a bundle"),
        ("link", "configs/more.json: links"),
        ("broken link", "docs/more.md: links"),
        ("no readme", "missing: docs/README.md"),
        ("no inference", "configs/inference.json is no JSON"),
        ("no shape", "inputs#image has no spatial_shape"),
        ("no output", "has no network_data_format#outputs"),
        ("compressed", "torch never does that"),
        ("broken description", "does not start: "),
        ("list for a description", "does not start: "),
        ("sizes that do not fit", "does not start: "),
        ("other network", "belongs to another network"),
    ],
)
def test_bad_bundle_is_not_packed_and_one_line_says_why(
    how: str, message: str, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if how == "other network":  # found as it is exported
        pytest.importorskip("onnxscript", reason="the ONNX exporter needs onnxscript")
    root = tmp_path / bundle.name
    shutil.copytree(bundle, root)
    spoil(root, how)
    assert main(["pack", str(root), "--output_dir", str(tmp_path / "dist")]) == 1
    shown = capfd.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert "executed" not in shown.out
    assert "/pack-" not in shown.err  # the user's files are named, not our copies
    assert not list((tmp_path / "dist").rglob("*.zip"))


def test_bundle_that_draws_its_weights_is_packed_with_them(tmp_path: Path) -> None:
    source = Bundle(BUNDLES / "cxr_embedding_export")
    staged = [staged_copy(source, tmp_path / name) for name in ("once", "again")]
    assert "Drawn from a seed" in (staged[0].root / "docs" / "model_card.md").read_text()
    assert staged[0].model.read_bytes() == staged[1].model.read_bytes()
    assert not source.model.exists()
