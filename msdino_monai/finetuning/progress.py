"""One line after every epoch: how it goes and how long it will take."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from ignite.engine import Engine, Events

from msdino_monai.distributed import rank

_log = logging.getLogger(__name__)


class Progress:
    """Logs the mean training loss and the evaluator's metrics. Attach it behind MONAI's `ValidationHandler`.

    Args:
        evaluator: whose metrics are shown.
        shown: which of them.
    """

    def __init__(self, evaluator: Engine, shown: Sequence[str] = ("loss",)) -> None:
        self.evaluator, self.shown = evaluator, tuple(shown)
        self._losses: list[torch.Tensor] = []
        self._started, self._first_epoch = time.perf_counter(), 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._losses.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _start(self, engine: Engine) -> None:
        self._started, self._first_epoch = time.perf_counter(), int(engine.state.epoch)

    def _collect(self, engine: Engine) -> None:
        self._losses.append(engine.state.output["loss"].detach())

    def _tell(self, engine: Engine) -> None:
        if rank() > 0 or not self._losses:
            return
        epoch, last = int(engine.state.epoch), int(engine.state.max_epochs or 0)
        words = [f"loss {sum(map(float, self._losses)) / len(self._losses):.4f}"]
        if self.evaluator.state.epoch == epoch:
            metrics = self.evaluator.state.metrics
            words += [
                f"validation {name.replace('_', ' ')} {metrics[name]:.4f}" for name in self.shown if name in metrics
            ]
        seconds = (time.perf_counter() - self._started) / (epoch - self._first_epoch)
        left = timedelta(seconds=round(seconds * (last - epoch)))
        _log.info("Epoch %d/%d: %s; %.1f s an epoch, %s left.", epoch, last, ", ".join(words), seconds, left)
