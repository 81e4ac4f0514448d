from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler
from small_bundle import SmallNetwork, accuracy, items, write_sites
from torch.utils.data import DataLoader

from msdino_monai.errors import UserError
from msdino_monai.federated import Site


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_sites(tmp_path_factory.mktemp("sites")) / "hospital_a")


def make_site(data: str, **settings: Any) -> Site:
    network = SmallNetwork()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(items(data, "training"), batch_size=8, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        decollate=False,
        train_handlers=[LrScheduleHandler(scheduler, print_lr=False, epoch_level=False)],
    )
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items(data, "validation"), batch_size=8),
        network=network,
        key_val_metric={"accuracy": accuracy()},
    )
    return Site(network, trainer, evaluator, "accuracy", lr_scheduler=scheduler, **settings)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_repeated_round_gives_the_same_tensors_whatever_came_between(data: str) -> None:
    site = make_site(data)
    start = site.tensors()
    second = site.train(start, 2)
    first = site.train(start, 1)
    site.validate(first)
    assert equal(site.train(start, 2), second)
    assert equal(make_site(data).train(start, 2), second)
    assert not equal(first, second)
    assert not equal(first, start)


def test_schedule_stands_where_the_round_says(data: str) -> None:
    site = make_site(data, local_epochs=2)
    start = site.tensors()
    for number in (3, 1, 2):
        site.train(start, number)
        steps = number * 2 * 3  # 24 images in batches of 8
        assert site.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.02 / (1 + steps))
        assert site.trainer.state.epoch == number * 2


def test_schedule_that_is_no_function_of_its_step_is_walked_there(data: str) -> None:
    site = make_site(data)
    site._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(site.trainer.optimizer, T_max=12)
    site._schedule_start = site._scheduler.state_dict()
    site._rewind(3)
    assert site.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)  # 6 of 12 steps


def test_validation_counts_images_and_changes_nothing(data: str) -> None:
    site = make_site(data)
    start = site.tensors()
    metrics = site.validate(start)
    assert set(metrics) == {"accuracy"}
    assert site.validation_images == 30
    assert site.images == 24
    assert equal(site.tensors(), start)
    site.validate(start)
    assert site.validation_images == 30


def test_frozen_parameters_stay_where_they_are(data: str) -> None:
    site = make_site(data, trainable_pattern="lora_")
    head = site.network.head.weight.clone()
    start = site.tensors()
    assert set(start) == {"base.lora_a", "base.lora_b"}
    assert not equal(site.train(start, 1), start)
    assert torch.equal(site.network.head.weight, head)


def test_metric_nobody_computes_is_named(data: str) -> None:
    site = make_site(data)
    site.key_metric = "dice"
    with pytest.raises(UserError, match="no 'dice', but accuracy"):
        site.validate(site.tensors())


def test_model_is_saved_with_the_given_tensors(data: str, tmp_path: Path) -> None:
    site = make_site(data)
    tensors = {name: torch.ones_like(tensor) for name, tensor in site.tensors().items()}
    site.save(tensors, tmp_path / "global")
    state = torch.load(tmp_path / "global" / "model.pt", weights_only=True)
    assert state["head.bias"].tolist() == [1, 1, 1]
    assert set(state) == set(site.network.state_dict())


def test_the_bundles_own_way_of_saving_is_used(data: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    site = make_site(data, save=lambda network, folder: seen.append((network, folder)), finish=lambda: seen.append(0))
    site.save(site.tensors(), tmp_path)
    site.finish()
    assert seen == [(site.network, tmp_path), 0]


def test_rounds_need_an_epoch(data: str) -> None:
    with pytest.raises(ValueError, match="local_epochs"):
        make_site(data, local_epochs=0)
