"""What only the hospital keeps of an export: the salt, the settings, which image lies where, who withdrew."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import AlreadyExistsError, Lock, make_private_folder, read_file, remove_files, write_file

ID_BYTES = 16


class StateError(UserError):
    """A state folder that does not fit what is asked of it."""


@dataclass(frozen=True)
class ShardNote:
    """What a shard holds, as salted ids: the hospital cannot read what it sealed."""

    sha256: str
    images: tuple[str, ...]
    patients: tuple[str | None, ...]


class ExportState:
    """The private folder (0700) that belongs to one export and never lies in it; files are 0600."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self._notes = self.folder / "shards"
        self._orders = self.folder / "orders"
        self._withdrawn_file = self.folder / "withdrawn.json"
        for path in (self.folder, self._notes, self._orders):
            make_private_folder(path)
        self._salt = self._read_salt()
        self._withdrawn: frozenset[bytes] | None = None

    def _read_salt(self) -> bytes:
        path = self.folder / "salt"
        if not path.exists():
            with suppress(AlreadyExistsError):  # another rank was faster
                write_file(path, os.urandom(32), private=True, replace=False)
        salt = read_file(path)
        if len(salt) != 32:
            raise StateError(f"{path} is damaged; restore it from a backup of {self.folder}.")
        return salt

    def salted_id(self, text: str, kind: Literal["image", "patient"]) -> bytes:
        """16 bytes that stand for an identifier and mean nothing without the salt."""
        return hmac.digest(self._salt, f"{kind}\0{text}".encode("utf-8", "surrogateescape"), hashlib.sha256)[:ID_BYTES]

    def lock_run(self) -> Lock:
        """Held by the one run that may write; refused while another holds it."""
        return Lock(
            self.folder / "run.lock",
            busy=f"another export or withdrawal is using {self.folder}; wait until it ends.",
        )

    def lock_commit(self) -> Lock:
        """Held while the manifest changes, so that the ranks of one run take turns."""
        return Lock(self.folder / "commit.lock", wait=True)

    def read_settings(self) -> dict[str, Any] | None:
        path = self.folder / "settings.json"
        return _load(path) if path.exists() else None

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        _save(self.folder / "settings.json", settings)

    def read_notes(self) -> dict[str, ShardNote]:
        """The notes of all shards, finished or not, by shard name."""
        notes = {}
        for path in sorted(self._notes.glob("*.json")):
            stored = _load(path)
            notes[path.stem] = ShardNote(stored["sha256"], tuple(stored["images"]), tuple(stored["patients"]))
        return notes

    def write_note(self, name: str, note: ShardNote) -> None:
        _save(self._notes / f"{name}.json", asdict(note))

    def write_orders(self, name: str, sealed: bytes) -> None:
        """Keep the orders of a shard, sealed to the hospital's own key, so that it can un-shuffle later."""
        write_file(self._orders / f"{name}.npy.age", sealed, private=True)

    def forget(self, names: set[str]) -> None:
        """Remove what is known of some shards."""
        remove_files(
            [self._notes / f"{name}.json" for name in names] + [self._orders / f"{name}.npy.age" for name in names]
        )

    def known_names(self) -> set[str]:
        return {path.name.split(".")[0] for folder in (self._notes, self._orders) for path in folder.glob("[!.]*")}

    def folders(self) -> tuple[Path, ...]:
        return self.folder, self._notes, self._orders

    @property
    def withdrawn(self) -> frozenset[bytes]:
        """The salted ids of the patients who withdrew, and of their images, whoever a later run says they are of."""
        if self._withdrawn is None:
            stored = _load(self._withdrawn_file) if self._withdrawn_file.exists() else []
            self._withdrawn = frozenset(map(bytes.fromhex, stored))
        return self._withdrawn

    def is_withdrawn(self, id_: bytes) -> bool:
        """Whether a patient or an image, by its salted id, is never exported again."""
        return id_ in self.withdrawn

    def withdraw(self, patient: bytes) -> None:
        """Put a patient and the images on the list for good, before anything is removed: later runs leave them out."""
        images = {
            bytes.fromhex(image)
            for note in self.read_notes().values()
            for image, whose in zip(note.images, note.patients, strict=True)
            if whose == patient.hex()
        }
        self._withdrawn = self.withdrawn | {patient} | images
        _save(self._withdrawn_file, sorted(id_.hex() for id_ in self._withdrawn))


def refuse_overlap(state_dir: Path, output_dir: Path) -> None:
    """The state must not travel with the export."""
    state, output = state_dir.expanduser().resolve(), output_dir.expanduser().resolve()
    if state.is_relative_to(output) or output.is_relative_to(state):
        raise StateError(f"state_dir {state} and output_dir {output} must not contain each other; move state_dir away.")


def _save(path: Path, value: Any) -> None:
    write_file(path, json.dumps(value).encode("ascii"), private=True)


def _load(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except ValueError:
        raise StateError(f"{path} is damaged; restore it from a backup of {path.parent}.") from None
