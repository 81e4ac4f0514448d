from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretraining_runs import begin, curves, student_weights, train, weights
from torch import nn

from msdino_monai.pretraining import Centring, CollapseGuard
from msdino_monai.pretraining.collapse import CollapseError, collapse

pytestmark = pytest.mark.usefixtures("_without_picture")

LEARNING = {"teacher_entropy": 1.5, "teacher_spread": 2.7, "feature_rank": 4.0}


@pytest.mark.parametrize(
    ("metrics", "what", "advice"),
    [
        ({"teacher_entropy": math.log(16)}, "the teacher is uniform", "lower --teacher_temperature"),
        ({"teacher_spread": 0.1}, "says the same of every image", "use --targets sinkhorn"),
        ({"feature_rank": 1.01}, "all features lie on one line", "raise --koleo_weight"),
    ],
)
def test_every_kind_of_collapse_has_its_advice(metrics: dict[str, float], what: str, advice: str) -> None:
    found = collapse({**LEARNING, **metrics}, 16)
    assert found is not None
    assert what in found
    assert advice in found
    assert collapse(LEARNING, 16) is None


def test_guard_is_patient_and_forgets_what_has_passed() -> None:
    guard = CollapseGuard(16, patience_epochs=2)
    state: Any = SimpleNamespace(state=SimpleNamespace(epoch=1, metrics={**LEARNING, "feature_rank": 0.0}))
    well: Any = SimpleNamespace(state=SimpleNamespace(epoch=2, metrics=LEARNING))
    guard(state)
    guard(well)
    guard(state)
    resumed = CollapseGuard(16, patience_epochs=2)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(CollapseError, match="--stop_on_collapse false"):
        resumed(state)


class Constant(nn.Module):
    """A teacher that has collapsed: it says the first prototype of everything."""

    def forward(self, logits: torch.Tensor, _: float) -> torch.Tensor:
        return nn.functional.one_hot(torch.zeros(logits.shape[:-1], dtype=torch.long), logits.shape[-1]).float()


def collapsing(kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if kind == "uniform":
        return {"targets": "centring", "teacher_temperature": 1000.0}
    monkeypatch.setattr(Centring, "forward", Constant.forward)
    return {"targets": "centring"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [("uniform", "the teacher is uniform"), ("constant", "the teacher says the same of every image")],
)
def test_collapse_stops_the_run_with_advice(
    kind: str, message: str, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**collapsing(kind, monkeypatch), "stop_on_collapse": True}
    for _ in range(2):  # the same command says the same again, and trains no further
        with pytest.raises(RuntimeError) as caught:
            train(export, tmp_path, **settings)
        assert isinstance(caught.value.__cause__, CollapseError)
        assert str(caught.value.__cause__).startswith(f"collapse after epoch 2: {message}")
        assert len(curves(tmp_path)) == 2
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("kind", ["uniform", "constant"])
def test_collapsed_run_may_go_on_with_warnings(
    kind: str, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = collapsing(kind, monkeypatch)
    with caplog.at_level(logging.WARNING):
        train(export, tmp_path, stop_on_collapse=False, **settings)
    assert caplog.text.count("collapse after epoch") == 3
    assert weights(tmp_path)


def test_run_that_collapsed_goes_on_when_told_to(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = collapsing("uniform", monkeypatch)
    with pytest.raises(RuntimeError):
        train(export, tmp_path / "out", stop_on_collapse=True, **settings)
    train(export, tmp_path / "out", stop_on_collapse="false", **settings)
    train(export, tmp_path / "undisturbed", **settings)
    assert all(
        torch.equal(tensor, student_weights(tmp_path / "undisturbed")[name])
        for name, tensor in student_weights(tmp_path / "out").items()
    )


def test_healthy_run_is_not_stopped(export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flow, _ = begin(export, tmp_path, stop_on_collapse=True)
    flow.run()
    assert "collapse" not in caplog.text
