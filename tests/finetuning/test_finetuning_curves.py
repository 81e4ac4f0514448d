"""The rows of curves.csv, in a training that runs through and in one that goes on."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from msdino_monai import machine
from msdino_monai.finetuning import Curves


def train(folder: Path, epochs: int, after: int = 0, validated: tuple[int, ...] = (1, 2, 3, 4)) -> list[dict[str, str]]:
    """A training whose loss is epoch + step / 10; it starts behind the epoch `after`."""
    evaluator = Engine(lambda *_: None)
    trainer: Any = Engine(
        lambda engine, step: {"loss": torch.tensor(engine.state.epoch + step / 10, requires_grad=True)}
    )
    trainer.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        if engine.state.epoch in validated:
            evaluator.state.epoch = engine.state.epoch
            mean_dice = torch.tensor(engine.state.epoch / 8)
            evaluator.state.metrics = {"val_mean_dice": mean_dice, "loss": 0.5, "auc_nodule": float("nan")}

    Curves(evaluator, folder).attach(trainer)
    if after:
        trainer.load_state_dict({"epoch": after, "epoch_length": 2, "max_epochs": epochs})
        trainer.run([1, 3])
    else:
        trainer.run([1, 3], max_epochs=epochs)
    with (folder / "curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_epoch_has_its_mean_loss_and_the_metrics_of_its_validation(tmp_path: Path) -> None:
    rows = train(tmp_path, 3, validated=(2,))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == pytest.approx([1.2, 2.2, 3.2])
    assert [row["val_mean_dice"] for row in rows] == ["", "0.25", ""]
    assert [row["val_loss"] for row in rows] == ["", "0.5", ""]
    assert {row["learning_rate"] for row in rows} == {"0.25"}
    assert "val_auc_nodule" not in rows[1]  # undefined figures are left out


def test_training_that_goes_on_keeps_the_rows_before(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "halves", 3)  # its third epoch is not in the checkpoint that it goes on from
    halves = train(tmp_path / "halves", 4, after=2)
    for row in (*whole, *halves):
        row.pop("seconds")
    assert halves == whole
    assert [row["epoch"] for row in train(tmp_path / "whole", 2)] == ["1", "2"]  # a fresh one starts anew


def test_run_notes_command_seed_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.remember_run(tmp_path, 7)
    assert not (tmp_path / "run.json").exists()  # a program of somebody's own has no command to repeat
    monkeypatch.setattr(sys, "argv", ["/lib/monai/bundle/__main__.py", "run", "--site_id", "hospital a"])
    machine.remember_run(tmp_path, 7)
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["command"] == "python -m monai.bundle run --site_id 'hospital a'"
    assert content["seed"] == 7
    assert content["versions"]["torch"] == torch.__version__
    assert "logical cores" in content["hardware"]
