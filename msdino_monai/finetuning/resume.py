"""A killed training goes on from its last finished epoch, with the weights an uninterrupted one would have had."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from msdino_monai.checkpoint import CheckpointFiles, Stateful
from msdino_monai.distributed import barrier, rank
from msdino_monai.finetuning.sampler import EpochSampler

_log = logging.getLogger(__name__)


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
        self.files = CheckpointFiles(folder, "epoch_{:05d}.pt", settings)
        self.parts = dict(parts)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def run(self, trainer: Any) -> None:
        """Train to the end, from the newest checkpoint if there is one; nothing to do if that was the end."""
        with self.files.claimed():
            if not self.restore(trainer):
                trainer.run()

    def has_begun(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self.files.paths())

    def restore(self, engine: Engine) -> bool:
        """Bring the newest whole checkpoint back; whether the training was complete."""
        found = self.files.newest()
        if found is None:
            return False
        path, content = found
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
                "epoch": int(engine.state.epoch),
                "finished": bool(engine.should_terminate),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
            }
            self.files.write(engine.state.epoch, content)
        barrier()
