"""Stops a training that no longer learns, and says what to change."""

from __future__ import annotations

import logging
import math

from ignite.engine import Engine, Events

from msdino_monai.errors import UserError

_log = logging.getLogger(__name__)


class CollapseError(UserError):
    """The teacher says nothing, or the same of every image."""


def collapse(metrics: dict[str, float], num_prototypes: int) -> str | None:
    """What kind of collapse an epoch's metrics (see `Curves`) show, with advice; None where there is none."""
    most = math.log(num_prototypes)
    sharpness, spread, rank = metrics["teacher_entropy"], metrics["teacher_spread"], metrics["feature_rank"]
    if sharpness > 0.99 * most:
        return (
            f"the teacher is uniform (entropy {sharpness:.3f}, ln {num_prototypes} = {most:.3f}): "
            "lower --teacher_temperature, keep --standardise_head true, or raise --learning_rate"
        )
    if spread < 0.1 * most:
        return (
            f"the teacher says the same of every image (entropy of its mean {spread:.3f}, not near {most:.3f}): "
            "use --targets sinkhorn, raise --teacher_temperature or --koleo_weight"
        )
    if rank < 1.05:
        return (
            f"all features lie on one line (effective rank {rank:.2f}): "
            "raise --koleo_weight, lower --learning_rate, or use a larger --local_share"
        )
    return None


class CollapseGuard:
    """After `patience_epochs` in a row of collapse: an error with advice, or a warning if the run must go on.

    Attach it behind `Curves`.
    """

    def __init__(self, num_prototypes: int, stop: bool = True, patience_epochs: int = 2) -> None:
        self.num_prototypes, self.stop, self.patience_epochs = num_prototypes, stop, patience_epochs
        self.epochs = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        what = collapse(engine.state.metrics, self.num_prototypes)
        self.epochs = self.epochs + 1 if what else 0
        if what is None:
            return
        message = f"collapse after epoch {engine.state.epoch}: {what}"
        if self.epochs >= self.patience_epochs and self.stop:
            raise CollapseError(f"{message}. To go on regardless: --stop_on_collapse false.")
        _log.warning("%s.", message)

    def state_dict(self) -> dict[str, int]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epochs = int(state["epochs"])
