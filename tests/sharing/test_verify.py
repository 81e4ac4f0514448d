from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from small_bundle_parts import BUNDLES, change_metadata

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.sharing import document, workflow
from msdino_monai.sharing import verify as verb
from msdino_monai.sharing.archive import unpack
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.environment import verify_in_fresh_environment
from msdino_monai.sharing.outcome import FAIL, LEFT_OUT, PASS, LeftOut, make_check


def table(shown: str) -> dict[str, tuple[str, str]]:
    """Each check's outcome and note."""
    rows = {}
    for line in shown.splitlines():
        if line.startswith("  "):
            name, rest = line[2:22].strip(), line[23:]
            rows[name] = (rest[:8].strip(), rest.partition(" s  ")[2])
    return rows


def state_of(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def copy_of(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder / source.name)
    return folder / source.name


@pytest.fixture
def schema(tmp_path: Path) -> str:
    """In place of MONAI's, which lies at an address of its own."""
    path = tmp_path / "small_schema.json"
    path.write_text(json.dumps({"type": "object", "required": ["version", "network_data_format"]}))
    return str(path)


def test_signed_package_passes_every_check(
    package: Path, keys: Path, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = str(keys / "maker_signing_key.pub")
    status = main(["verify", str(package), "--fresh", "false", "--trusted_key", key, "--schema", schema])
    rows = table(capsys.readouterr().out)
    assert status == 0, rows
    assert "signed by ed25519:" in rows["hashes"][1]
    for check in ("files", "version", "weights", "net in/out", "train properties", "inference properties", "run"):
        assert rows[check][0] == PASS
    here, packed = rows["TorchScript"][1].split("; the packed one: ")
    assert max(float(note.removeprefix("max error ")) for note in (here, packed)) < 1e-5
    if rows["ONNX"][0] == PASS:
        errors = [float(note.rpartition("max error ")[2]) for note in rows["ONNX"][1].split("; ")]
        assert len(errors) == 4  # one image, and several at once; made here, and packed
        assert max(errors) < 1e-4
    assert rows["without weights"] == (PASS, "stops with the train command")


def test_strangers_signature_is_a_failure(package: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(package), "--trusted_key", str(keys / "stranger_signing_key.pub")]) == 1
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["hashes"]
    assert "not signed with the key you trust" in rows["hashes"][1]


def test_altered_package_is_not_unpacked_to_the_end(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(package) as archive, zipfile.ZipFile(tmp_path / "altered.zip", "w") as target:
        for info in archive.infolist():
            data = archive.read(info)
            target.writestr(info, data.replace(b"false", b"true ") if "inference.json" in info.filename else data)
    assert main(["verify", str(tmp_path / "altered.zip")]) == 1
    rows = table(capsys.readouterr().out)
    assert rows["hashes"][0] == FAIL
    assert "configs/inference.json is not the file the manifest lists" in rows["hashes"][1]


def test_unpacked_package_that_was_changed_fails(
    package: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = unpack(package, tmp_path)
    (root / "LICENSE").write_text("mine")
    assert main(["verify", str(root), "--trusted_key", str(keys / "maker_signing_key.pub")]) == 1
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["hashes"]
    assert "LICENSE is not the file the manifest lists" in rows["hashes"][1]


def test_fresh_environment_that_cannot_be_made_is_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make verify` makes one that can."""
    root = copy_of(bundle, tmp_path)
    with pytest.raises(UserError, match="brings 0 msdino_monai wheels"):
        verify_in_fresh_environment(root, tmp_path, None, None)
    (root / "wheels").mkdir()
    (root / "wheels" / "msdino_monai-0.1.0-py3-none-any.whl").write_bytes(b"")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"install --quiet torch==.*; is there a network\? --fresh false runs it in this"
    ) as raised:
        verify_in_fresh_environment(root, tmp_path, None, None)
    assert "\n" not in str(raised.value)


def test_bundle_without_weights_gets_random_ones_and_stays_as_it_was(
    schema: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done with the weights is seen above, and by `make verify` on every bundle."""
    monkeypatch.setattr(verb, "_runs", lambda work, _: {"weights lie there": lambda: str(work.model.is_file())})
    root = BUNDLES / "cxr_embedding_export"
    before = state_of(root)
    assert main(["verify", str(root), "--schema", schema]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["weights"] == (PASS, "weights: random")
    assert rows["weights lie there"] == (PASS, "True")
    assert state_of(root) == before


def test_checks_that_do_not_fit_are_left_out_with_their_reason(tmp_path: Path) -> None:
    bundle = Bundle(BUNDLES / "cxr_embedding_export")
    with pytest.raises(LeftOut, match="there is no configs"):
        workflow.check_properties(bundle, "train", tmp_path, tmp_path)
    with pytest.raises(LeftOut, match="needs no weights"):
        workflow.check_without_weights(bundle, tmp_path, tmp_path)


@pytest.mark.parametrize("how", ["nan", "pickle", "metadata"])
def test_bad_bundle_fails_with_one_line_and_its_network_is_left_alone(
    how: str, bundle: Path, schema: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_of(bundle, tmp_path)
    if how == "metadata":
        (root / "configs" / "metadata.json").unlink()
    else:
        state = torch.load(root / "models" / "model.pt", weights_only=True)
        state["head.bias" if "head.bias" in state else next(iter(state))].view(-1)[0] = float("inf")
        torch.save(state if how == "nan" else {"weights": PurePathInside()}, root / "models" / "model.pt")
    assert main(["verify", str(root), "--schema", schema]) == 1
    rows = table(capsys.readouterr().out)
    if how == "metadata":
        assert list(rows) == ["metadata"]
        assert "configs/metadata.json is missing" in rows["metadata"][1]
    else:
        assert rows["weights"][0] == FAIL
        assert ("NaN or infinite" if how == "nan" else "plain tensors") in rows["weights"][1]
        assert {rows[check][0] for check in ("run", "ONNX", "TorchScript")} == {LEFT_OUT}
        assert "not named in large_files.yml" in rows["files"][1]


class PurePathInside:
    """Anything that is no tensor."""


@pytest.mark.parametrize(
    ("junk", "message"),
    [
        ("configs/__pycache__/x.pyc", "unexpected in a bundle"),
        ("scripts/net.py", "unexpected in a bundle"),
        ("models/other.pt", "not named in large_files.yml"),
    ],
)
def test_files_nobody_expects_are_named(junk: str, message: str, tmp_path: Path) -> None:
    root = copy_of(BUNDLES / "cxr_embedding_export", tmp_path)
    assert document.check_files(Bundle(root)).endswith(" files")
    (root / junk).parent.mkdir(parents=True, exist_ok=True)
    (root / junk).write_bytes(b"x")
    with pytest.raises(UserError, match=message) as raised:
        document.check_files(Bundle(root))
    assert junk in str(raised.value)


def test_weights_named_in_large_files_are_expected(tmp_path: Path) -> None:
    root = copy_of(BUNDLES / "cxr_embedding_export", tmp_path)
    (root / "models").mkdir()
    (root / "models" / "model.pt").write_bytes(b"x")
    (root / "large_files.yml").write_text(
        "large_files:\n- path: models/model.pt\n  url: https://example.org/model.pt\n"
    )
    assert document.check_files(Bundle(root)).endswith(" files")
    (root / "large_files.yml").write_text("large_files: []")
    with pytest.raises(UserError, match="not named in"):
        document.check_files(Bundle(root))


def test_version_must_be_new_and_explained(tmp_path: Path) -> None:
    root = copy_of(BUNDLES / "cxr_embedding_export", tmp_path)
    change_metadata(root, version="1.2.3", changelog={"1.2.3": "new"})
    assert document.check_version(Bundle(root)) == "1.2.3"
    (tmp_path / "model_info.json").write_text(json.dumps({"cxr_embedding_export_v1.2.3": {}}))
    with pytest.raises(UserError, match="raise the version"):
        document.check_version(Bundle(root))
    change_metadata(root, version="9.9.9")
    with pytest.raises(UserError, match="say there what is new"):
        document.check_version(Bundle(root))
    change_metadata(root, version="two")
    with pytest.raises(UserError, match="not of the form"):
        document.check_version(Bundle(root))


def test_readme_and_licence_must_say_what_users_need(tmp_path: Path) -> None:
    root = copy_of(BUNDLES / "cxr_embedding_export", tmp_path)
    readme = root / "docs" / "README.md"
    readme.write_text(readme.read_text().replace("## Data", "## Things").replace("# License", "# End"))
    with pytest.raises(UserError, match="lacks data, licence"):
        document.check_readme(Bundle(root))
    (root / "LICENSE").write_text("all yours")
    with pytest.raises(UserError, match="holds no licence"):
        document.check_licence(Bundle(root))


@pytest.mark.parametrize(
    ("pin", "met"), [("1.2.3", True), (">=1.2", True), (">=1.10", False), ("1.2", False), ("==1.2.3", True)]
)
def test_pins_are_exact_or_at_least(pin: str, met: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = copy_of(BUNDLES / "cxr_embedding_export", tmp_path)
    change_metadata(root, required_packages_version={"thing": pin})
    asked: list[str] = []
    monkeypatch.setattr(document, "_installed", lambda _: "1.2.3")
    monkeypatch.setattr(document, "_try_to_install", asked.append)
    document.check_pins(Bundle(root))
    assert bool(asked) is not met


@pytest.mark.filterwarnings("ignore:No hash value provided")  # a copy that the user names
def test_metadata_that_breaks_monais_schema_fails(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    schema, scratch = tmp_path / "schema.json", tmp_path / "scratch"
    scratch.mkdir()
    schema.write_text(json.dumps({"type": "object", "required": ["nonsense"]}))
    with pytest.raises(ValueError, match="nonsense"):
        document.check_schema(Bundle(bundle), str(schema), scratch)
    with pytest.raises(UserError, match="there is no schema"):
        document.check_schema(Bundle(bundle), str(tmp_path / "none.json"), scratch)


def test_a_check_that_raises_is_a_row_with_its_reason() -> None:
    def raises(error: Exception) -> str:
        raise error

    def wrapped() -> str:
        try:
            raise UserError("give --x")
        except UserError as error:
            raise RuntimeError("MONAI's\nlong story") from error

    assert make_check("a", lambda: "fine").outcome == PASS
    assert make_check("a", lambda: raises(LeftOut("no GPU"))).note == "no GPU"
    assert make_check("a", lambda: raises(ValueError("two\nlines"))).note == "ValueError: two lines"
    assert make_check("a", wrapped).note == "give --x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "name at least one bundle"),
        (["pack"], "name at least one bundle"),
        (["verify", str(BUNDLES / "cxr_segmentation"), "--trusted_key", f"ed25519:{43 * 'A'}="], "is no package"),
        (["pack", "007"], "007 is no folder"),
        (["pack", "1e5"], "1e5 is no folder"),
        (["verify", "x", "--shema", "y"], "did you mean --schema?"),
        (["verify", ""], "the name of a bundle is empty"),
        (["verify", "x.zip", "--constraint", "nowhere.txt"], "there is no file nowhere.txt"),
        (["pack", ""], "the name of a bundle is empty"),
        (["pack", str(BUNDLES / "cxr_segmentation"), "--output_dir="], "--output_dir is empty"),
        (
            ["pack", str(BUNDLES / "cxr_segmentation"), "--output_dir", str(BUNDLES / "cxr_segmentation" / "dist")],
            "lies in",
        ),
    ],
)
def test_wrong_use_gets_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
