"""Checkpoints from which a training goes on exactly where it was."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from msdino_monai.checkpoint import CheckpointFiles, Stateful
from msdino_monai.distributed import barrier, rank, sum_across_ranks
from msdino_monai.pretraining.token_batches import TokenBatches

_log = logging.getLogger(__name__)


class RandomState:
    """torch's generators; everything else random here is a function of its keys."""

    def state_dict(self) -> dict[str, Any]:
        on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.empty(0, dtype=torch.uint8)
        return {"cpu": torch.get_rng_state(), "cuda": on_gpu}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and len(state["cuda"]):
            torch.cuda.set_rng_state(state["cuda"])


class Checkpoints:
    """Writes checkpoints durably, keeps the last ones, and brings the newest whole one back.

    Saves every `every_iterations`, at every epoch's end and when the process is asked to stop (SIGINT, SIGTERM); then
    the run ends after the iteration it is in. All ranks agree on when; rank 0 writes.

    Args:
        folder: where they lie.
        parts: what a training consists of, by name: networks, optimizer, loss, random state, curves.
        batches: its position follows from the iteration.
        settings: what must not change between a run and its continuation.
        every_iterations: 0 for epochs' ends only.
        keep: how many.
    """

    def __init__(
        self,
        folder: str | Path,
        parts: Mapping[str, Stateful],
        batches: TokenBatches,
        settings: Mapping[str, Any],
        every_iterations: int = 200,
        keep: int = 2,
    ) -> None:
        if keep < 1 or every_iterations < 0:
            raise ValueError(f"keep starts at 1 and every_iterations at 0, got {keep} and {every_iterations}.")
        self.files = CheckpointFiles(folder, "checkpoint_{:08d}.pt", settings, keep)
        self.parts, self.batches = {**parts, "random": RandomState()}, batches
        self.every_iterations = every_iterations
        self.interrupted = False
        self._asked_to_stop, self._saved = False, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)

    def _after_iteration(self, engine: Engine) -> None:
        """Not before a step is whole, and not where an epoch ends: its curves come first."""
        if not engine.state.output["stepped"] or engine.state.iteration % len(self.batches) == 0:
            return
        due = self.every_iterations and engine.state.iteration - self._saved >= self.every_iterations
        self._save_or_stop(engine, bool(due))

    def _after_epoch(self, engine: Engine) -> None:
        self._save_or_stop(engine, True)

    def _save_or_stop(self, engine: Engine, due: bool) -> None:
        stop = float(sum_across_ranks(torch.tensor(float(self._asked_to_stop)))) > 0 and not engine.should_terminate
        if stop or due:
            self._save(engine)
        if stop:
            self.interrupted = True
            engine.terminate()

    def _save(self, engine: Engine) -> None:
        """One file for all ranks: they hold the same networks, optimizer and centre."""
        if engine.should_terminate:  # a fault: what is in memory is not worth keeping
            return
        self._saved = int(engine.state.iteration)
        state = {name: part.state_dict() for name, part in self.parts.items()}  # the curves add up over all ranks
        if rank() == 0:
            self.files.write(engine.state.iteration, {"iteration": int(engine.state.iteration), "parts": state})
        barrier()

    def restore(self, engine: Engine) -> int:
        """Bring the newest whole checkpoint back; the first run keeps its start. Returns the iteration."""
        found = self.files.newest()
        barrier()  # every rank has looked before rank 0 writes
        if rank() == 0:
            self.files.remove_half_written()
        if found is None:
            self._save(engine)
            return 0
        path, content = found
        for name, part in self.parts.items():
            part.load_state_dict(content["parts"][name])
        iteration = int(content["iteration"])
        self.batches.iteration = self._saved = iteration
        engine.load_state_dict(
            {"iteration": iteration, "epoch_length": len(self.batches), "max_epochs": engine.state.max_epochs}
        )
        if rank() == 0:
            _log.info("Going on after iteration %d from %s.", iteration, path)
        return iteration

    def listening(self) -> _Listening:
        """While this is entered, the first SIGINT or SIGTERM only asks the run to stop; the second acts at once."""
        return _Listening(self)

    def ask_to_stop(self) -> None:
        self._asked_to_stop = True


class _Listening:
    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        _log.warning("Asked to stop; saving after this iteration.")
        self._checkpoints.ask_to_stop()
        self.__exit__()
