from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.finetuning.encoder import build_encoder
from msdino_monai.finetuning.optimisation import (
    AveragedWeights,
    ClipGradients,
    adamw,
    layer_depth,
    layer_groups,
    warmup_cosine,
)
from msdino_monai.networks.classifier import Classifier


def small_classifier(**settings: Any) -> Classifier:
    encoder = build_encoder(
        16, patch_size=8, embedding_dim=8, hidden_size=8, mlp_dim=8, num_layers=3, num_heads=2, **settings
    )
    return Classifier(encoder, 2)


def rate_of(groups: list[dict[str, Any]], parameter: nn.Parameter) -> tuple[float, float]:
    found = [group for group in groups if any(each is parameter for each in group["params"])]
    assert len(found) == 1
    return found[0]["lr"], found[0]["weight_decay"]


def test_rates_fall_towards_the_pixels() -> None:
    network = small_classifier(train_embedding=True)
    groups = layer_groups(network, 1.0, 0.1, 0.5)
    body = network.encoder.body
    assert rate_of(groups, network.head.weight) == (1.0, 0.1)
    assert rate_of(groups, body.norm.weight) == (1.0, 0.0)
    assert [rate_of(groups, block.mlp.linear1.weight)[0] for block in body.blocks] == [0.125, 0.25, 0.5]
    assert rate_of(groups, body.to_hidden.weight) == (0.0625, 0.1)
    assert rate_of(groups, network.encoder.embedding.weight)[0] == 0.0625
    assert body.positions is not None
    assert rate_of(groups, body.positions) == (1.0, 0.0), "what starts at zero needs the full rate"


def test_vectors_and_tokens_do_not_decay() -> None:
    network = small_classifier(num_registers=2)
    groups = layer_groups(network, 1.0, 0.1)
    for name, parameter in network.named_parameters():
        kept_large = parameter.ndim == 1 or name.endswith(("cls_token", "registers", "positions"))
        assert rate_of(groups, parameter)[1] == (0.0 if kept_large else 0.1), name


def test_frozen_parameters_are_left_out() -> None:
    network = small_classifier()
    network.encoder.requires_grad_(False)
    learning = [parameter for group in layer_groups(network, 1.0) for parameter in group["params"]]
    assert {id(each) for each in learning} == {id(network.head.weight), id(network.head.bias)}
    with pytest.raises(ValueError, match="layer_decay"):
        layer_groups(network, 1.0, layer_decay=0.0)


def test_names_inside_other_networks_are_known() -> None:
    assert layer_depth("encoder.body.blocks.4.norm1.weight", 12) == 5
    assert layer_depth("module.encoder.embedding.weight", 12) == 0
    assert layer_depth("decoder.blocks.0.conv.weight", 12) == 13


def test_schedule_warms_up_and_falls_to_zero_for_every_layer() -> None:
    optimizer = adamw(small_classifier(), 1.0, layer_decay=0.5)
    schedule = warmup_cosine(optimizer, epoch_length=10, max_epochs=10, warmup_epochs=2)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    table = torch.tensor(rates)
    assert table[0, -1] == pytest.approx(0.01)
    assert table[20, -1] == pytest.approx(1.0)
    assert table.argmax(0).tolist() == [20] * table.shape[1]
    torch.testing.assert_close(table[:, 0] / table[:, -1], torch.full((100,), 0.0625))
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.0, abs=1e-9)


def engine_with(network: nn.Module, *handlers: Any) -> Engine:
    def step(engine: Engine, factor: float) -> None:
        network.zero_grad()
        (factor * network(torch.ones(1, 2))).sum().backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)

    engine = Engine(step)
    engine.scaler = None
    engine.register_events(*IterationEvents)
    for handler in handlers:
        handler.attach(engine)
    return engine


def test_long_gradients_are_shortened_and_short_ones_kept() -> None:
    network = nn.Linear(2, 1, bias=False)
    engine = engine_with(network, ClipGradients(network, 1.0))
    engine.run([1000.0], max_epochs=1)
    assert network.weight.grad is not None
    assert float(network.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    engine.run([0.1], max_epochs=1)
    torch.testing.assert_close(network.weight.grad, torch.full((1, 2), 0.1))


def test_gradient_that_is_not_finite_stops_the_run() -> None:
    network = nn.Linear(2, 1)
    with pytest.raises(UserError, match="not finite"):
        engine_with(network, ClipGradients(network, 0.0)).run([float("nan")], max_epochs=1)


def test_average_is_the_recursion_with_a_warm_start() -> None:
    network = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(network, 0.5)
    expected = float(network.weight.detach())
    for step in range(8):
        with torch.no_grad():
            network.weight.fill_(step)
        averaged.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(averaged.network.get_parameter("weight")) == pytest.approx(expected, rel=1e-5)


def test_no_decay_follows_the_network() -> None:
    network = nn.Linear(2, 2)
    averaged = AveragedWeights(network, 0.0)
    nn.init.ones_(network.weight)
    averaged.update()
    assert torch.equal(averaged.network.get_parameter("weight"), network.weight)
    assert not averaged.network.get_parameter("weight").requires_grad


def test_run_from_the_first_iteration_averages_from_the_weights_it_finds() -> None:
    """A federation loads weights after the handlers were made."""
    network = nn.Linear(2, 1)
    averaged = AveragedWeights(network, 0.9)
    nn.init.constant_(network.weight, 5.0)
    engine = engine_with(network, averaged)
    seen = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: seen.append(float(averaged.network.weight[0, 0])))
    engine.run([1.0], max_epochs=1)
    assert seen == [5.0]
