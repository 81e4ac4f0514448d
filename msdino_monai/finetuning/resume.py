"""A killed training goes on from its last finished epoch, with the weights an uninterrupted one would have had."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events

from msdino_monai.distributed import barrier, rank
from msdino_monai.errors import UserError, one_line
from msdino_monai.finetuning.report import plain
from msdino_monai.finetuning.sampler import EpochSampler
from msdino_monai.vault.atomic import make_folder, remove_files, write_file

_log = logging.getLogger(__name__)
_VERSION = 1


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def mixed_seed(*keys: int) -> int:
    """One seed for torch and numpy from several numbers: seed, epoch, rank, image."""
    return int.from_bytes(hashlib.sha256(repr(keys).encode()).digest()[:4], "little")


class EpochSeed:
    """All randomness of an epoch from its number: stochastic depth, dropout, order and, with the sampler, augmentation.

    So nothing random has to be kept for a training to go on exactly.
    """

    def __init__(self, sampler: EpochSampler, seed: int = 0) -> None:
        self.sampler, self.seed = sampler, seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.sampler.epoch = engine.state.epoch - 1
        torch.manual_seed(mixed_seed(self.seed, self.sampler.epoch, rank()))


class Resume:
    """Writes a checkpoint after every epoch and brings the newest whole one back.

    Attach it behind everything that acts at an epoch's end.

    Args:
        folder: where they lie.
        parts: what a training consists of, by name: network, optimizer, schedule, averaged weights, best score.
        settings: what must not change between a run and its continuation.
    """

    def __init__(self, folder: str | Path, parts: Mapping[str, Stateful], settings: Mapping[str, Any]) -> None:
        self.folder, self.parts = Path(folder).expanduser(), dict(parts)
        self.settings = plain(settings)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def run(self, trainer: Any) -> None:
        """Train to the end, from the newest checkpoint if there is one; nothing to do if that was the end."""
        if not self.restore(trainer):
            trainer.run()

    def has_begun(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self._files())

    def restore(self, engine: Engine) -> bool:
        """Bring the newest whole checkpoint back; whether the training was complete."""
        found = self._newest()
        if found is None:
            return False
        path, content = found
        self._refuse_other_settings(path, content["settings"])
        for name, part in self.parts.items():
            part.load_state_dict(content["parts"][name])
        epoch, last = int(content["epoch"]), int(engine.state.max_epochs or 0)
        if content["finished"] or epoch >= last:
            _log.info("This training is complete: %s.", path)
            return True
        engine.load_state_dict({"epoch": epoch, "epoch_length": engine.state.epoch_length, "max_epochs": last})
        _log.info("Going on after epoch %d from %s.", epoch, path)
        return False

    def _save(self, engine: Engine) -> None:
        """One file for all ranks: they hold the same state."""
        if rank() == 0:
            content = {
                "version": _VERSION,
                "epoch": int(engine.state.epoch),
                "finished": bool(engine.should_terminate),
                "settings": self.settings,
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            make_folder(self.folder)
            write_file(self.folder / f"epoch_{engine.state.epoch:05d}.pt", buffer.getvalue(), private=True)
            remove_files(self._files()[:-2])
        barrier()

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for path in reversed(self._files()):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
                _log.warning("%s is not whole (%s); going back to an older one.", path, one_line(error))
                continue
            if content.get("version") != _VERSION:
                raise UserError(
                    f"{path} was written by another version; finish with that one, or name a new --output_dir."
                )
            return path, content
        if self._files():
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

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*.pt"))
