"""Checkpoints from which a training goes on exactly where it was."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events

from msdino_monai.distributed import barrier, rank, sum_across_ranks
from msdino_monai.errors import UserError, one_line
from msdino_monai.pretraining.token_batches import TokenBatches
from msdino_monai.vault.atomic import TEMPORARY, Lock, make_folder, remove_files, write_file

_log = logging.getLogger(__name__)
_VERSION = 1


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


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
        self.folder, self.parts, self.batches = Path(folder).expanduser(), {**parts, "random": RandomState()}, batches
        self.settings, self.every_iterations, self.keep = plain(settings), every_iterations, keep
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
            content = {
                "version": _VERSION,
                "iteration": int(engine.state.iteration),
                "settings": self.settings,
                "parts": state,
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            make_folder(self.folder)
            write_file(self.folder / f"checkpoint_{engine.state.iteration:08d}.pt", buffer.getvalue(), private=True)
            remove_files(self._files()[: -self.keep])
        barrier()

    def restore(self, engine: Engine) -> int:
        """Bring the newest whole checkpoint back; the first run keeps its start. Returns the iteration."""
        found = self._newest()
        barrier()  # every rank has looked before rank 0 writes
        if rank() == 0:
            remove_files([path for path in self.folder.glob(".*.tmp") if TEMPORARY.fullmatch(path.name)])
        if found is None:
            self._save(engine)
            return 0
        path, content = found
        self._refuse_other_settings(path, content["settings"])
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

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for path in reversed(self._files()):
            try:
                content = _read_checked(path)
            except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
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
        names = {*self.settings, *theirs}
        changed = sorted(name for name in names if self.settings.get(name) != theirs.get(name))
        if changed:
            what = "; ".join(f"{name}: {theirs.get(name)} there, {self.settings.get(name)} now" for name in changed[:5])
            raise UserError(
                f"{path} belongs to other settings ({what}); use the same ones, or name a new --output_dir."
            )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint_*.pt"))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """While this is entered no other training may write here; rank 0 holds the lock."""
        if rank() > 0:
            yield
            return
        make_folder(self.folder)
        with Lock(self.folder, busy=f"{self.folder} is in use by another training; wait, or name a new --output_dir."):
            yield

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


def _read_checked(path: Path) -> dict[str, Any]:
    """What is in a checkpoint; torch itself does not compare the checksums it writes."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} was altered")
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would keep them, so that they compare and load without pickle."""
    return {str(name): _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value)
