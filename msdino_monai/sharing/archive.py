"""Zip archives: written with the same bytes for the same files, read only as far as their manifest vouches for them."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import RUN_OUTPUT
from msdino_monai.sharing.manifest import MANIFEST_FILE, FileEntry, PackageManifest, read_manifest
from msdino_monai.vault.atomic import hash_file, read_file

MAX_FILES = 1000
MAX_BYTES = 8 << 30
MAX_RATIO = 200
_MAX_MANIFEST_BYTES = 1 << 20
_CHUNK = 1 << 20
_ALIGNMENT = 64  # torch maps tensors from the file where they begin at multiples of it
_HEADER_BYTES = 30
_EXTRA_BYTES = 4


def write_aligned(path: Path, content: Mapping[str, bytes]) -> None:
    """A TorchScript archive: nothing compressed, no dates, every record where torch can map it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            info = _info(name)
            begin = archive.start_dir + _HEADER_BYTES + len(name.encode()) + _EXTRA_BYTES
            padding = -begin % _ALIGNMENT
            info.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            archive.writestr(info, data)


def write_content(path: Path, content: Mapping[str, bytes]) -> None:
    """Files with these bytes, in this order, nothing compressed: a compressor's version would show."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(_info(name), data)


def write_folder(path: Path, folder: Path, files: list[str], top: str) -> None:
    """Files of a folder below `top`, in this order, as `write_content` does."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            source, info = folder / name, _info(f"{top}/{name}")
            info.file_size = source.stat().st_size
            with source.open("rb") as reader, archive.open(info, "w") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)


def unpack(path: Path, folder: Path, trusted_key: str | None = None) -> tuple[Path, PackageManifest]:
    """Unpack a package into an empty folder after every check that can be made before; returns the bundle in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos, top = _plain_files(archive, path)
            manifest = _read_manifest(archive, infos, path, trusted_key)
            if manifest.name != top:
                raise UserError(f"{path}: the manifest is of {manifest.name!r}, the folder is {top!r}; do not use it.")
            _compare(infos, manifest, path)
            for entry in manifest.files:
                _extract(archive, infos[entry.file], entry, folder / top, path)
            (folder / top / MANIFEST_FILE).write_bytes(manifest.encode())  # the very bytes that were checked
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no whole zip archive ({error}); get it again.") from error
    return folder / top, manifest


def check_unpacked(folder: Path, trusted_key: str | None = None) -> PackageManifest:
    """The manifest of a package that somebody unpacked, if all it lists is still there as listed."""
    path = folder / MANIFEST_FILE
    manifest = _trusted(read_manifest(read_file(path), str(path)), folder, trusted_key)
    root, advice = folder.resolve(), "unpack the package again"
    for entry in manifest.files:
        file = root / entry.file  # an absolute name would be all that is left
        is_plain = file.is_file() and file.is_relative_to(root) and file.resolve() == file  # no link, no way out
        if not is_plain or hash_file(file) != entry.sha256:
            raise UserError(f"{folder}: {entry.file} is not the file the manifest lists; {advice}.")
    listed = {MANIFEST_FILE, *(entry.file for entry in manifest.files)}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and inside.as_posix() not in listed and inside.parts[0] not in RUN_OUTPUT:
            raise UserError(f"{folder}: {inside.as_posix()} is not in the manifest; {advice}.")
    return manifest


def _info(name: str) -> zipfile.ZipInfo:
    """A plain file of nobody's, from the beginning of time."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, wherever this runs
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _plain_files(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """The archive's files by their path in the bundle, and the bundle's name; anything but plain files is refused."""
    found: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > MAX_FILES:
        raise UserError(f"{path} holds more than {MAX_FILES} files; it is no package of ours, do not use it.")
    tops = {info.filename.partition("/")[0] for info in archive.infolist()}
    for info in archive.infolist():
        _refuse_odd(info, path)
    if len(tops) != 1:
        raise UserError(f"{path} must hold one folder, the bundle; do not use it.")
    for info in archive.infolist():
        if not info.is_dir():
            name = info.filename.partition("/")[2]
            if name in found:
                raise UserError(f"{path} holds {name} twice; do not use it.")
            found[name] = info
    return found, tops.pop()


def _refuse_odd(info: zipfile.ZipInfo, path: Path) -> None:
    name = info.filename
    parts = name.removesuffix("/").split("/")
    # An empty part would make `b//etc/x` the absolute `/etc/x` below.
    if {"", ".", ".."} & set(parts) or "/" not in name or "\\" in name or ":" in name or not name.isprintable():
        raise UserError(f"{path}: {name!r} would be written outside its folder; do not use it.")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path}: {name!r} is a link or no plain file; do not use it.")
    if info.flag_bits & 0x1:
        raise UserError(f"{path}: {name!r} is under a password; do not use it.")
    if info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise UserError(f"{path}: {name!r} unpacks to {MAX_RATIO} times its size or more; do not use it.")


def _read_manifest(
    archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo], path: Path, trusted_key: str | None
) -> PackageManifest:
    info = infos.get(MANIFEST_FILE)
    if info is None or info.file_size > _MAX_MANIFEST_BYTES:
        raise UserError(f"{path} has no {MANIFEST_FILE} of a sensible size; make packages with `pack`.")
    return _trusted(read_manifest(archive.read(info), f"{path}: {MANIFEST_FILE}"), path, trusted_key)


def _trusted(manifest: PackageManifest, path: Path, trusted_key: str | None) -> PackageManifest:
    """The manifest, if its signature fits, and is of whom the user trusts."""
    if manifest.public_key is not None and not manifest.signed_by(manifest.public_key):
        raise UserError(f"{path}: the signature does not fit the manifest; get the package again.")
    if trusted_key is not None and not manifest.signed_by(trusted_key):
        raise UserError(f"{path} is not signed with the key you trust; ask its maker for theirs, or do not use it.")
    return manifest


def _compare(infos: Mapping[str, zipfile.ZipInfo], manifest: PackageManifest, path: Path) -> None:
    """What is there against what the manifest lists: names and declared sizes."""
    listed = {entry.file: entry.bytes for entry in manifest.files}
    if len(listed) != len(manifest.files) or MANIFEST_FILE in listed:
        raise UserError(f"{path}: the manifest lists a file twice; do not use it.")
    missing, unlisted = listed.keys() - infos.keys(), infos.keys() - listed.keys() - {MANIFEST_FILE}
    if missing or unlisted:
        what, names = ("is missing", missing) if missing else ("is not in the manifest", unlisted)
        raise UserError(f"{path}: {min(names)} {what}; get the package again.")
    for name, size in listed.items():
        if infos[name].file_size != size:
            raise UserError(f"{path}: {name} has {infos[name].file_size} bytes, not {size}; get the package again.")
    if sum(listed.values()) > MAX_BYTES:
        raise UserError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB; do not use it.")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: FileEntry, folder: Path, path: Path) -> None:
    """One file, no byte more than the manifest lists, and only those bytes."""
    target = folder / entry.file
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: {entry.file!r} would be written outside its folder; do not use it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), entry.bytes
    with archive.open(info) as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise UserError(f"{path}: {entry.file} is longer than the manifest says; do not use it.")
            digest.update(chunk)
            writer.write(chunk)
    if left or digest.hexdigest() != entry.sha256:
        raise UserError(f"{path}: {entry.file} is not the file the manifest lists; get the package again.")
