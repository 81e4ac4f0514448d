from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from msdino_monai.errors import UserError
from msdino_monai.sharing import archive
from msdino_monai.sharing.archive import check_unpacked, unpack
from msdino_monai.sharing.manifest import MANIFEST_FILE, FileEntry, PackageManifest, read_manifest
from msdino_monai.vault.signing import SigningKey

GOOD = {"LICENSE": b"Apache License", "configs/metadata.json": b"{}"}


def manifest_of(files: Mapping[str, bytes], **changes: int) -> PackageManifest:
    entries = [
        FileEntry(name, changes.get(name, len(data)), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    ]
    return PackageManifest("b", "1.0.0", tuple(entries))


def write(
    path: Path,
    files: Mapping[str, bytes] = GOOD,
    listed: Mapping[str, bytes] | None = None,
    raw: Mapping[str, bytes] | None = None,
    links: Mapping[str, bytes] | None = None,
    manifest: PackageManifest | None = None,
) -> Path:
    """A package by hand: `listed` is what the manifest says, `raw` goes in under its whole name."""
    manifest = manifest or manifest_of(files if listed is None else listed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in {**files, MANIFEST_FILE: manifest.encode()}.items():
            target.writestr(f"b/{name}", data)
        for name, data in (raw or {}).items():
            target.writestr(name, data)
        for name, data in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            target.writestr(info, data)
    return path


def test_good_package_unpacks_to_its_files(tmp_path: Path) -> None:
    root, manifest = unpack(write(tmp_path / "p.zip"), tmp_path / "out")
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == {*GOOD, MANIFEST_FILE}
    assert all((root / name).read_bytes() == data for name, data in GOOD.items())
    assert manifest.version == "1.0.0"


BOMB = {**GOOD, "docs/zeros.md": bytes(5_000_000)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"raw": {"b/../../evil": b"x"}}, "outside its folder"),
        ({"raw": {"b/configs/../../../evil": b"x"}}, "outside its folder"),
        ({"raw": {"b/..\\evil": b"x"}}, "outside its folder"),
        ({"raw": {"/evil": b"x"}}, "outside its folder"),
        ({"raw": {"../evil": b"x"}}, "outside its folder"),
        ({"files": {**GOOD, "/evil": b"x"}}, "outside its folder"),
        ({"files": {**GOOD, "configs//evil": b"x"}}, "outside its folder"),
        ({"files": {**GOOD, "docs/\x1b[2Jevil": b"x"}}, "outside its folder"),
        ({"raw": {"c/evil": b"x"}}, "must hold one folder"),
        ({"raw": {"b/evil": b"x"}}, "evil is not in the manifest"),
        ({"links": {"b/evil": b"/etc/passwd"}}, "is a link"),
        ({"links": {"b/configs": b"/etc"}}, "is a link"),
        ({"listed": {**GOOD, "LICENSE": b"Apache Licence"}}, "is not the file the manifest lists"),
        ({"listed": {**GOOD, "LICENSE": b"Apache"}}, "has 14 bytes, not 6"),
        ({"listed": {**GOOD, "docs/README.md": b"#"}}, "docs/README.md is missing"),
        ({"files": BOMB}, "times its size"),
        ({"listed": {**GOOD, MANIFEST_FILE: b""}}, "lists a file twice"),
    ],
)
def test_hostile_package_is_refused_in_one_line(content: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "p.zip", **content)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as raised:
        unpack(path, tmp_path / "deep" / "out")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("evil"))


def test_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    """The directory declares 100 bytes; 5,000,000 are inside."""
    path = write(tmp_path / "p.zip", BOMB, listed={**GOOD, "docs/zeros.md": bytes(100)})
    data = path.read_bytes()
    path.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(UserError, match="no whole zip archive"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out" / "b" / "docs" / "zeros.md").exists() or (
        (tmp_path / "out" / "b" / "docs" / "zeros.md").stat().st_size <= 100
    )


def test_package_beyond_the_caps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.zip")
    monkeypatch.setattr(archive, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(path, tmp_path / "out")
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 100, -30])
def test_cut_package_is_refused_in_one_line(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "p.zip")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="no whole zip archive"):
        unpack(path, tmp_path / "out")


def test_signature_is_of_the_content_and_of_nobody_else(tmp_path: Path) -> None:
    maker, stranger = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    signed = manifest_of(GOOD).signed(maker)
    assert unpack(write(tmp_path / "p.zip", manifest=signed), tmp_path / "a", maker.public)[1] == signed
    for number, other in enumerate((manifest_of(GOOD), manifest_of(GOOD).signed(stranger))):
        path = write(tmp_path / f"{number}.zip", manifest=other)
        with pytest.raises(UserError, match="not signed with the key you trust"):
            unpack(path, tmp_path / f"{number}", maker.public)
    assert unpack(write(tmp_path / "q.zip"), tmp_path / "c")[1].signature is None


def test_signature_that_does_not_fit_is_refused_even_by_who_trusts_nobody(tmp_path: Path) -> None:
    signed, other = manifest_of(GOOD).signed(SigningKey(bytes(32))), manifest_of({}).signed(SigningKey(bytes(32)))
    path = write(tmp_path / "p.zip", manifest=replace(signed, signature=other.signature))
    with pytest.raises(UserError, match="signature does not fit"):
        unpack(path, tmp_path / "out")


def test_unpacked_package_is_held_against_its_manifest(tmp_path: Path) -> None:
    maker, stranger = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    signed = manifest_of(GOOD).signed(maker)
    root, _ = unpack(write(tmp_path / "p.zip", manifest=signed), tmp_path / "out")
    (root / "eval").mkdir()  # what a run left there
    assert check_unpacked(root, maker.public) == signed
    with pytest.raises(UserError, match="not signed with the key you trust"):
        check_unpacked(root, stranger.public)
    licence = root / "LICENSE"
    licence.write_bytes(b"Apache licence")
    with pytest.raises(UserError, match="LICENSE is not the file the manifest lists"):
        check_unpacked(root)
    licence.unlink()
    (tmp_path / "elsewhere").write_bytes(GOOD["LICENSE"])
    for make in (lambda: None, lambda: licence.symlink_to(tmp_path / "elsewhere")):
        make()
        with pytest.raises(UserError, match="LICENSE is not the file the manifest lists"):
            check_unpacked(root)


def test_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret")):
        (tmp_path / "b" / MANIFEST_FILE).write_bytes(manifest_of({name: b"x"}).encode())
        with pytest.raises(UserError, match="secret is not the file"):
            check_unpacked(tmp_path / "b")


@pytest.mark.parametrize("name", ["configs/train.json", "large_files.yml", "models/model.calibration.json"])
def test_file_that_somebody_added_is_refused(name: str, tmp_path: Path) -> None:
    """Configurations are run, and files beside the weights change answers."""
    root, _ = unpack(write(tmp_path / "p.zip"), tmp_path / "out")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} is not in the manifest"):
        check_unpacked(root)


def test_manifest_is_read_strictly() -> None:
    data = manifest_of(GOOD).signed(SigningKey(bytes(32))).encode()
    assert read_manifest(data, "m").encode() == data
    for altered in (data + b" ", data.replace(b"1.0.0", b"1.0.1"), b"[]", b"{}", data.replace(b"msdino_monai b", b"x")):
        with pytest.raises(UserError, match="was altered or is no package's manifest"):
            read_manifest(altered, "m")
