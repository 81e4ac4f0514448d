from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.finetuning.best import BestWeights
from msdino_monai.finetuning.description import load_network, read_description, save_network
from msdino_monai.finetuning.optimisation import AveragedWeights
from msdino_monai.finetuning.resume import EpochSeed, Resume
from msdino_monai.finetuning.sampler import EpochSampler


class Training:
    """One weight that takes a random step in every iteration, and scores that somebody else decided on."""

    def __init__(self, folder: Path, scores: list[float], patience: int = 0, settings: dict[str, Any] | None = None):
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.sampler = EpochSampler(3)
        self.averaged = AveragedWeights(self.network, 0.0)
        self.evaluator = Engine(lambda *_: None)
        self.best = BestWeights(
            self.evaluator, self.averaged, folder / "models/model.pt", {"task": "t"}, "score", patience
        )
        self.resume = Resume(
            folder / "checkpoints",
            {"network": self.network, "averaged": self.averaged, "best": self.best},
            settings or {},
        )
        self.engine = Engine(self._step)
        EpochSeed(self.sampler, 5).attach(self.engine)
        self.averaged.attach(self.engine)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate)
        self.best.attach(self.engine)
        self.resume.attach(self.engine)
        self.scores, self.killed_after = scores, 99

    def _step(self, engine: Engine, batch: tuple[int, int]) -> None:
        if engine.state.epoch > self.killed_after:
            raise KeyboardInterrupt
        with torch.no_grad():
            self.network.weight += torch.rand(1, 1) + batch[1]

    def _validate(self, engine: Engine) -> None:
        self.evaluator.state.epoch = engine.state.epoch
        self.evaluator.state.metrics = {"score": self.scores[engine.state.epoch - 1]}

    def run(self) -> float:
        self.engine.state.max_epochs, self.engine.state.epoch_length = len(self.scores), 3
        trainer = SimpleNamespace(
            run=lambda: self.engine.run(self.sampler),
            state=self.engine.state,
            load_state_dict=self.engine.load_state_dict,
        )
        self.resume.run(trainer)
        return float(self.network.weight.detach())


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    scores = [0.5, 0.9, 0.7, 0.6]
    whole = Training(tmp_path / "whole", scores)
    expected = whole.run()
    killed = Training(tmp_path / "killed", scores)
    killed.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = Training(tmp_path / "killed", scores)
    assert again.run() == expected
    assert again.best.state_dict() == whole.best.state_dict() == {"score": 0.9, "epoch": 2, "stale": 2}
    models = [torch.load(tmp_path / name / "models/model.pt") for name in ("whole", "killed")]
    assert torch.equal(models[0]["weight"], models[1]["weight"])


def test_complete_training_is_not_repeated(tmp_path: Path) -> None:
    expected = Training(tmp_path, [0.1, 0.2]).run()
    again = Training(tmp_path, [0.1, 0.2])
    again.killed_after = 0
    assert again.run() == expected


def test_training_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    first = Training(tmp_path, [0.5, 0.4, 0.3, 0.9], patience=2)
    expected = first.run()
    assert first.engine.state.epoch == 3
    again = Training(tmp_path, [0.5, 0.4, 0.3, 0.9], patience=2)
    assert again.run() == expected
    again.best.finish(3)
    assert again.best.epoch == 1
    assert read_description(tmp_path / "models/model.pt")["chosen"] == {"epoch": 1, "validation": {"score": 0.5}}


def test_score_that_is_never_defined_keeps_the_last_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = Training(tmp_path, [math.nan, math.nan])
    last = training.run()
    assert not (tmp_path / "models").exists()
    training.best.finish(2)
    assert float(torch.load(tmp_path / "models/model.pt")["weight"]) == last
    assert "never defined" in caplog.text


def test_undefined_score_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undefined = math.nan
    training = Training(tmp_path, [undefined, 0.5, undefined, undefined, 0.4, undefined, 0.9], patience=2)
    training.run()
    assert training.best.state_dict() == {"score": 0.9, "epoch": 7, "stale": 0}
    assert caplog.text.count("score is undefined after epoch") == 1


def test_cut_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    expected = Training(tmp_path / "whole", [0.1] * 3).run()
    Training(tmp_path / "cut", [0.1] * 3).run()
    newest = sorted((tmp_path / "cut/checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    assert Training(tmp_path / "cut", [0.1] * 3).run() == expected


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Training(tmp_path, [0.1], settings={"seed": 0, "clip": 1.0}).run()
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        Training(tmp_path, [0.1], settings={"seed": 1, "clip": 1.0}).run()


def test_new_weights_drop_the_calibration_of_the_old(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    save_network(tmp_path / "model.pt", network.state_dict(), {"task": "t"})
    (tmp_path / "model.calibration.json").write_text(json.dumps({"temperature": 2}))
    assert read_description(tmp_path / "model.pt", "calibration") == {"temperature": 2}
    save_network(tmp_path / "model.pt", network.state_dict(), {"task": "t"})
    assert read_description(tmp_path / "model.pt", "calibration") == {}
    assert all(type(value) is torch.Tensor for value in torch.load(tmp_path / "model.pt", weights_only=True).values())


def test_weights_of_another_network_are_refused_in_one_message(tmp_path: Path) -> None:
    save_network(tmp_path / "model.pt", nn.Linear(2, 3).state_dict(), {})
    with pytest.raises(UserError, match=r"weight: \(3, 2\) in the file, \(3, 4\) here"):
        load_network(nn.Linear(4, 3), tmp_path / "model.pt")
    with pytest.raises(UserError, match="there is no model"):
        load_network(nn.Linear(4, 3), tmp_path / "other.pt")
