"""The committed side of an export folder: what its manifest names, and the only ways that changes."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import TEMPORARY, hash_file, make_folder, read_file, remove_files, write_file
from msdino_monai.vault.manifest import MANIFEST_FILE, Manifest, ShardEntry, decode_manifest
from msdino_monai.vault.shard import SHARD_FILE, SHARD_FOLDER
from msdino_monai.vault.signing import SigningKey
from msdino_monai.vault.state import ExportState, ShardNote, StateError

logger = logging.getLogger(__name__)


class Ledger:
    """Commits shards to one export and drops them again.

    The order of every commit: the hospital's note, the shard, the manifest, each durable before the next begins. What
    the manifest names is therefore always whole; what it does not name is dropped by `recover`.
    """

    def __init__(self, folder: Path, state: ExportState, signing_key: SigningKey | None) -> None:
        self.folder = folder
        self.state = state
        self._signing_key = signing_key
        self._shards = folder / SHARD_FOLDER
        self._manifest = folder / MANIFEST_FILE
        self._known: tuple[bytes, Manifest] | None = None

    def exists(self) -> bool:
        return self._manifest.exists()

    def read(self) -> Manifest:
        """The manifest as it lies; decoded again only if another rank has changed it."""
        data = read_file(self._manifest)
        if self._known is None or self._known[0] != data:
            self._known = data, decode_manifest(data, self._manifest)
        return self._known[1]

    def refuse_foreign_files(self) -> None:
        """Refuse to begin an export where anything else lies, or with the state of another export."""
        if self.state.read_notes():
            raise StateError(
                f"{self.state.folder} belongs to an export that is not in {self.folder}; put it back there, or delete "
                f"{self.state.folder / 'shards'} to export everything again."
            )
        if self._shards.is_symlink() or (self._shards.exists() and any(self._shards.iterdir())):
            raise UserError(f"{self._shards} holds files without a manifest; name an empty output_dir.")
        there = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        foreign = {name for name in there if not TEMPORARY.fullmatch(name)} - {SHARD_FOLDER}
        if foreign:
            raise UserError(
                f"{self.folder} holds other files ({min(foreign)}), which would leave with the export; "
                "name an empty output_dir."
            )

    def create(self, manifest: Manifest) -> None:
        """Begin an export: an empty manifest stands before the first shard."""
        make_folder(self._shards)
        self._write(manifest)

    def commit(self, data: bytes, note_of: Callable[[str], ShardNote], orders: bytes | None, *, sealed: bool) -> str:
        """Add one shard to the export; when this returns it is acknowledged. Returns its name."""
        name = secrets.token_hex(8)
        note = note_of(hashlib.sha256(data).hexdigest())
        self.state.write_note(name, note)
        if orders is not None:
            self.state.write_orders(name, orders)
        file = f"{SHARD_FOLDER}/{name}.npy{'.age' if sealed else ''}"
        write_file(self.folder / file, data)
        entry = ShardEntry(file, len(data), note.sha256, len(note.images))
        self._change(lambda shards: (*shards, entry))
        return name

    def drop(self, names: Collection[str]) -> None:
        """Take shards out of the export: first out of the manifest, then off the disk."""
        files = [self.folder / shard.file for shard in self.read().shards if shard.name in names]
        self._change(lambda shards: tuple(shard for shard in shards if shard.name not in names))
        remove_files(files)
        self.state.forget(set(names))

    def resign(self) -> None:
        """Commit the manifest again if another key, or none, signed it."""
        if self._signing_key is not None and not self.read().signed_by(self._signing_key.public):
            self._change(lambda shards: shards)

    def recover(self) -> Recovery:
        """Finish what a crash or a withdrawal left undone, and check every shard. Only under the run's lock."""
        if self._shards.is_symlink():
            raise UserError(f"{self._shards} is a link; put the folder itself there.")
        make_folder(self._shards)
        manifest, notes = self.read(), self.state.read_notes()
        for shard in manifest.shards:
            if shard.name not in notes or notes[shard.name].sha256 != shard.sha256:
                raise StateError(
                    f"{self.folder / shard.file} was not written with state_dir {self.state.folder}; "
                    "give the state_dir that belongs to this export."
                )
        withdrawn = {shard.name for shard in manifest.shards if self._count_withdrawn(notes[shard.name])}
        problems = {shard.name: problem_of(self.folder, shard) for shard in manifest.shards}
        damaged = {name: problem for name, problem in problems.items() if problem is not None}
        dropped = withdrawn | damaged.keys()
        if dropped:
            self.drop(dropped)
        for problem in damaged.values():
            logger.warning("%s; its images are exported again.", problem)
        self._drop_orphans()
        gone = sum(self._count_withdrawn(notes[name]) for name in dropped)
        return Recovery(tuple(damaged.values()), gone, sum(len(notes[name].images) for name in dropped) - gone)

    def finished(self) -> frozenset[bytes]:
        """The salted ids of the acknowledged images."""
        manifest = self.read()  # before the notes: another rank may be adding to both, notes first
        notes = self.state.read_notes()
        return frozenset(bytes.fromhex(image) for shard in manifest.shards for image in notes[shard.name].images)

    def _change(self, change: Callable[[tuple[ShardEntry, ...]], tuple[ShardEntry, ...]]) -> None:
        with self.state.lock_commit():
            manifest = self.read()
            self._write(manifest.with_shards(change(manifest.shards)))

    def _write(self, manifest: Manifest) -> None:
        signed = manifest.signed(self._signing_key)
        data = signed.encode()
        write_file(self._manifest, data)
        self._known = data, signed

    def _drop_orphans(self) -> None:
        """Remove what was never acknowledged. Files that are not ours by name are left alone."""
        kept = {shard.name for shard in self.read().shards}
        orphans = [
            path
            for path in self._shards.iterdir()
            if SHARD_FILE.fullmatch(path.name) and path.name.split(".")[0] not in kept
        ]
        for folder in (self.folder, self._shards, *self.state.folders()):
            orphans += [path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)]
        remove_files(orphans)
        self.state.forget(self.state.known_names() - kept)

    def _count_withdrawn(self, note: ShardNote) -> int:
        withdrawn = {id_.hex() for id_ in self.state.withdrawn}
        return sum(not withdrawn.isdisjoint(ids) for ids in zip(note.images, note.patients, strict=True))


@dataclass(frozen=True)
class Recovery:
    """What `recover` dropped: damaged shards (one line each), images withdrawn, images to be exported again."""

    damaged: tuple[str, ...]
    withdrawn: int
    again: int


def problem_of(folder: Path, shard: ShardEntry) -> str | None:
    """One line that says what is wrong with a shard's file, if anything is."""
    path = folder / shard.file
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return f"{path} is missing or a link"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{path} has {size} bytes, the manifest says {shard.bytes}"
    if hash_file(path) != shard.sha256:
        return f"{path} was altered: its sha256 is not the manifest's"
    return None
