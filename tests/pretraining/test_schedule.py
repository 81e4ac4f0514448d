from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from msdino_monai.pretraining import FrozenPrototypes, Schedule, ScheduleHandler, adamw, scaled_learning_rate
from msdino_monai.pretraining.schedule import scheduled


@pytest.mark.parametrize("step", range(0, 101, 10))
def test_cosine_is_its_closed_form(step: int) -> None:
    expected = 0.01 + 0.5 * (1 - 0.01) * (1 + math.cos(math.pi * step / 100))
    assert scheduled(step, 100, 1.0, 0.01) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("step", range(0, 101, 10))
def test_warm_up_is_a_line_and_the_cosine_follows_it(step: int) -> None:
    found = scheduled(step, 100, 5.0, 1.0, warmup=20, warmup_from=2.0)
    if step < 20:
        assert found == pytest.approx(2 + 3 * step / 20)
    else:
        assert found == pytest.approx(1 + 4 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2)


def test_value_without_an_end_stays() -> None:
    schedule = Schedule(0.07, warmup_epochs=2, warmup_from=0.04)
    found = [schedule.at(step, epoch_length=2, max_epochs=4) for step in range(8)]
    assert found == pytest.approx([0.04, 0.0475, 0.055, 0.0625, 0.07, 0.07, 0.07, 0.07])


def test_warm_up_longer_than_the_training_never_passes_the_value() -> None:
    found = [Schedule(1.0, 0.0, warmup_epochs=10).at(step, 3, 2) for step in range(6)]
    assert found == pytest.approx([step / 30 for step in range(6)])


def test_learning_rate_grows_with_the_images_of_a_step() -> None:
    assert scaled_learning_rate(5e-4, 64, 2, 2) == pytest.approx(5e-4)
    assert scaled_learning_rate(5e-4, 8, 1) == pytest.approx(5e-4 / 32)


def test_negative_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        Schedule(1.0, warmup_epochs=-1)


def test_schedules_reach_the_optimizer_and_matrices_alone_decay() -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = adamw(network)
    seen: list[dict[str, Any]] = []

    def step(engine: Engine, _: Any) -> None:
        lines = {
            len(group["params"][0].shape): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups
        }
        seen.append({**engine.state.schedule, "matrix": lines[2], "bias": lines[1]})

    engine = Engine(step)
    schedules = {"learning_rate": Schedule(1.0, 0.0), "weight_decay": Schedule(0.04, 0.4), "other": Schedule(7.0)}
    ScheduleHandler(schedules, optimizer).attach(engine)
    engine.run(range(2), max_epochs=2)
    for number, row in enumerate(seen):
        rate, decay = scheduled(number, 4, 1.0, 0.0), scheduled(number, 4, 0.04, 0.4)
        assert row == {
            "learning_rate": rate,
            "weight_decay": decay,
            "other": 7.0,
            "matrix": (rate, decay),
            "bias": (rate, 0),
        }
    assert len(seen) == 4


def test_optimizer_leaves_out_what_does_not_learn() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1).requires_grad_(False))
    assert sum(len(group["params"]) for group in adamw(network).param_groups) == 2


def test_prototypes_are_frozen_for_their_epochs_only() -> None:
    prototypes, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    moved: list[tuple[bool, bool]] = []

    def step(engine: Engine, _: Any) -> None:
        (prototypes.sum() + other.sum()).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        moved.append((prototypes.grad is not None, other.grad is not None))
        prototypes.grad = other.grad = None

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    FrozenPrototypes([prototypes], num_epochs=1.5).attach(engine)
    engine.run(range(2), max_epochs=3)
    assert moved == [(number >= 3, True) for number in range(6)]
