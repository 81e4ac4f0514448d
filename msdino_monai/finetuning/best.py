"""The best weights of a training, and when to stop looking for better ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from msdino_monai.distributed import barrier, rank
from msdino_monai.finetuning.description import load_network, save_network
from msdino_monai.finetuning.optimisation import AveragedWeights

_log = logging.getLogger(__name__)


class BestWeights:
    """After every validation: keeps the averaged weights if they are the best so far, or stops the training.

    Attach it to the trainer, behind MONAI's `ValidationHandler`.

    Args:
        evaluator: whose metrics decide.
        averaged: what was validated.
        model: where the best go, a plain dict of tensors.
        description: what the network is; goes beside the model.
        key_metric: larger is better; undefined (NaN) is never the best, and never counts as patience.
        patience: validations without a better one until the training stops; 0 never stops it.
    """

    def __init__(
        self,
        evaluator: Engine,
        averaged: AveragedWeights,
        model: str | Path,
        description: Mapping[str, Any],
        key_metric: str,
        patience: int = 0,
    ) -> None:
        if patience < 0:
            raise ValueError(f"patience starts at 0, got {patience}.")
        self.evaluator, self.averaged, self.model = evaluator, averaged, Path(model).expanduser()
        self.description, self.key_metric, self.patience = dict(description), key_metric, patience
        self.score: float | None = None
        self.epoch, self.stale = 0, 0
        self._told = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self.evaluator.state.epoch != engine.state.epoch:  # no validation after this epoch
            return
        score = float(self.evaluator.state.metrics.get(self.key_metric, math.nan))
        if not math.isfinite(score):
            self._tell_undefined(int(engine.state.epoch))
            return
        if self.score is None or score > self.score:
            self.score, self.epoch, self.stale = score, int(engine.state.epoch), 0
            self._save()
            return
        self.stale += 1
        if self.patience and self.stale >= self.patience:
            _log.info("No better %s for %d validations; stopping.", self.key_metric, self.stale)
            engine.terminate()

    def _tell_undefined(self, epoch: int) -> None:
        if rank() == 0 and not self._told:
            _log.warning(
                "%s is undefined after epoch %d; such validations choose nothing and do not count as patience. "
                "Put images of every class into the validation section.",
                self.key_metric,
                epoch,
            )
        self._told = True

    def finish(self, epochs: int) -> None:
        """Bring the best weights back into the averaged network; the last ones where none was ever better."""
        if self.score is None:
            _log.warning("%s was never defined on the validation data; the last weights are kept.", self.key_metric)
            self.epoch = epochs
            self._save()
        barrier()
        load_network(self.averaged.network, self.model)

    def _save(self) -> None:
        if rank() == 0:
            chosen = {"epoch": self.epoch, "validation": {self.key_metric: self.score}}
            save_network(self.model, self.averaged.network.state_dict(), {**self.description, "chosen": chosen})

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "epoch": self.epoch, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score = state["score"]
        self.epoch, self.stale = int(state["epoch"]), int(state["stale"])
