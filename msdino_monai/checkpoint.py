"""Checkpoint files: written durably, read back only whole, and only by a run with the same settings."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from msdino_monai.distributed import rank
from msdino_monai.errors import UserError, one_line
from msdino_monai.plain import plain
from msdino_monai.vault.atomic import TEMPORARY, Lock, make_folder, remove_files, write_file

_log = logging.getLogger(__name__)
_VERSION = 1


class Stateful(Protocol):
    """A part of a training: network, optimizer, schedule, curves."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class CheckpointFiles:
    """The checkpoints of one training in their folder.

    Args:
        folder: where they lie.
        name: of a file, with a place for its number: `epoch_{:05d}.pt`.
        settings: what must not change between a run and its continuation.
        keep: how many.
    """

    def __init__(self, folder: str | Path, name: str, settings: Mapping[str, Any], keep: int = 2) -> None:
        self.folder, self.name, self.keep = Path(folder).expanduser(), name, keep
        self.settings: dict[str, Any] = plain(settings)

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(f"{self.name.partition('{')[0]}*.pt"))

    def write(self, number: int, content: Mapping[str, Any]) -> None:
        """One more, and the oldest beyond `keep` away."""
        buffer = io.BytesIO()
        torch.save({"version": _VERSION, "settings": self.settings, **content}, buffer)
        make_folder(self.folder)
        write_file(self.folder / self.name.format(number), buffer.getvalue(), private=True)
        remove_files(self.paths()[: -self.keep])

    def remove_half_written(self) -> None:
        """What a killed run left behind."""
        remove_files([path for path in self.folder.glob(".*.tmp") if TEMPORARY.fullmatch(path.name)])

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole one and what is in it; none where there is none at all."""
        for path in reversed(self.paths()):
            try:
                content = _read_checked(path)
            except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
                _log.warning("%s is not whole (%s); going back to an older one.", path, one_line(error))
                continue
            if content.get("version") != _VERSION:
                raise UserError(
                    f"{path} was written by another version; finish with that one, or name a new --output_dir."
                )
            self._refuse_other_settings(path, content["settings"])
            return path, content
        if self.paths():
            raise UserError(f"no checkpoint in {self.folder} is whole; remove them, or name a new --output_dir.")
        return None

    def _refuse_other_settings(self, path: Path, theirs: Mapping[str, Any]) -> None:
        names = sorted({*self.settings, *theirs})
        changed = [name for name in names if self.settings.get(name) != theirs.get(name)]
        if changed:
            what = "; ".join(f"{name}: {theirs.get(name)} there, {self.settings.get(name)} now" for name in changed[:5])
            raise UserError(
                f"{path} belongs to other settings ({what}); use the same ones, or name a new --output_dir."
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """While this is entered no other training may write here; rank 0 holds the lock."""
        if rank() > 0:
            yield
            return
        make_folder(self.folder)
        with Lock(self.folder, busy=f"{self.folder} is in use by another training; wait, or name a new --output_dir."):
            yield


def _read_checked(path: Path) -> dict[str, Any]:
    """What is in a checkpoint; torch itself does not compare the checksums it writes."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} was altered")
    return dict(torch.load(path, map_location="cpu", weights_only=True))
