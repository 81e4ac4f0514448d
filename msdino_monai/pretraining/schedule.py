"""What changes while a training goes on: learning rate, weight decay, teacher momentum, temperature, frozen layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer


def scheduled(
    step: int, total: int, value: float, final: float | None = None, warmup: int = 0, warmup_from: float = 0.0
) -> float:
    """Linear from `warmup_from` to `value` over `warmup` steps, then half a cosine to `final` at `total`."""
    if step < warmup:
        return warmup_from + (value - warmup_from) * step / warmup
    if final is None:
        return value
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (value - final) * (1 + math.cos(math.pi * progress)) / 2


class Schedule:
    """A value over a training, in epochs; `scheduled` says how."""

    def __init__(
        self, value: float, final: float | None = None, warmup_epochs: float = 0.0, warmup_from: float = 0.0
    ) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, got {warmup_epochs}.")
        self.value, self.final = float(value), None if final is None else float(final)
        self.warmup_epochs, self.warmup_from = warmup_epochs, float(warmup_from)

    def at(self, step: int, epoch_length: int, max_epochs: int) -> float:
        warmup = round(self.warmup_epochs * epoch_length)
        return scheduled(step, epoch_length * max_epochs, self.value, self.final, warmup, self.warmup_from)


class ScheduleHandler:
    """Before every iteration: the schedules' values to `engine.state.schedule` and the optimizer.

    Args:
        schedules: by name; `learning_rate` and `weight_decay` go to the optimizer, the others to who asks for them.
        optimizer: parameter groups made by `parameter_groups`; those with `weight_decay` 0 keep it.
    """

    def __init__(self, schedules: Mapping[str, Schedule], optimizer: Optimizer) -> None:
        self.schedules, self.optimizer = dict(schedules), optimizer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        place = (state.iteration - 1, int(state.epoch_length or 1), int(state.max_epochs or 1))
        state.schedule = {name: schedule.at(*place) for name, schedule in self.schedules.items()}
        for group in self.optimizer.param_groups:
            if "learning_rate" in state.schedule:
                group["lr"] = state.schedule["learning_rate"]
            if "weight_decay" in state.schedule and group["decays"]:
                group["weight_decay"] = state.schedule["weight_decay"]


class FrozenPrototypes:
    """Keeps the head's prototypes where they are for the first epochs, so that features move first."""

    def __init__(self, parameters: Sequence[nn.Parameter], num_epochs: float = 1.0) -> None:
        self.parameters, self.num_epochs = list(parameters), num_epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration - 1 < self.num_epochs * int(engine.state.epoch_length or 1):
            for parameter in self.parameters:
                parameter.grad = None
