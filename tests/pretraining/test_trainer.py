from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from pretraining_runs import (
    SMALL,
    TRAIN,
    assert_same,
    begin,
    checkpoints_of,
    curves,
    store_of,
    student_weights,
    train,
    weights,
    write_export,
)

from msdino_monai.errors import UserError
from msdino_monai.pretraining import DistillationLoss
from msdino_monai.pretraining.loss import Terms

pytestmark = pytest.mark.usefixtures("_without_picture")


def spoil_loss(monkeypatch: pytest.MonkeyPatch, *calls: int) -> list[int]:
    """Make the loss of these calls infinite, as a failing card might; returns the calls so far."""
    forward, seen = DistillationLoss.forward, list[int]()

    def spoilt(self: DistillationLoss, *given: Any) -> Terms:
        seen.append(len(seen) + 1)
        terms = forward(self, *given)
        return terms._replace(loss=terms.loss * torch.inf) if seen[-1] in calls else terms

    monkeypatch.setattr(DistillationLoss, "forward", spoilt)
    return seen


@pytest.mark.parametrize("at", [1, 4, 5, 9])
def test_passing_fault_leaves_no_trace(
    at: int, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Back to the last checkpoint, or to the beginning, once; then the weights are those of an undisturbed run."""
    settings = {"targets": "centring", "token_weight": 0.5, "checkpoint_every_iterations": 2}
    train(export, tmp_path / "undisturbed", **settings)
    spoil_loss(monkeypatch, at)
    train(export, tmp_path / "out", **settings)
    assert "going back to the last checkpoint once" in caplog.text
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "undisturbed"))
    assert_same(student_weights(tmp_path / "out"), student_weights(tmp_path / "undisturbed"))
    assert curves(tmp_path / "out") == curves(tmp_path / "undisturbed")


def test_fault_in_the_middle_of_added_up_gradients_leaves_no_trace(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 2, "accumulation_steps": 3}
    train(export, tmp_path / "undisturbed", **settings)
    spoil_loss(monkeypatch, 8)
    train(export, tmp_path / "out", **settings)
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "undisturbed"))


def test_gradient_that_is_not_finite_does_not_reach_the_weights(export: Path, tmp_path: Path) -> None:
    train(export, tmp_path / "undisturbed")
    flow, trainer = begin(export, tmp_path / "out")
    prototypes, calls = flow.parser.get_parsed_content("head").prototypes, list[int]()

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * torch.nan if len(calls) == 5 else gradient

    prototypes.register_hook(spoil)
    flow.run()
    assert len(calls) == 9 + 2  # iterations 4 and 5 again
    assert trainer.fault == ""
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "undisturbed"))


def test_lasting_fault_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    """One image's tokens are not numbers: the second try meets it again."""
    export = write_export(tmp_path / "export", poisoned=7)
    store = store_of(export)
    (poisoned,) = np.flatnonzero(np.isnan(store.gather(np.arange(12))).all((1, 2)))
    flow, trainer = begin(export, tmp_path / "out")
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append((engine.state.iteration, engine.state.output["batch"]["index"].tolist())),
    )
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    cause = caught.value.__cause__
    assert isinstance(cause, UserError)
    iteration, images = seen[-1]
    assert poisoned in images
    listed = ", ".join(map(str, images))
    assert str(cause) == (
        f"the loss or its gradient is not finite in epoch 1, batch {iteration - 1} (images {listed} of the store); "
        "lower --learning_rate or --clip, or use --precision float32."
    )
    assert [number for number, _ in seen] == [*range(1, iteration + 1)] * 2, "twice, and no third time"
    assert not (tmp_path / "out" / "models").exists()
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert kept == {"checkpoint_00000000.pt"}, "nothing that the fault touched is kept"
    assert all(tensor.isfinite().all() for tensor in student_weights(tmp_path / "out").values())


def test_two_faults_in_one_run_are_one_too_many(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_loss(monkeypatch, 2, 8)
    with pytest.raises(RuntimeError) as caught:
        train(export, tmp_path)
    assert "not finite" in str(caught.value.__cause__)


@pytest.mark.parametrize("targets", ["sinkhorn", "centring"])
def test_bfloat16_stays_finite_and_near(targets: str, export: Path, tmp_path: Path) -> None:
    settings = {"targets": targets, "token_weight": 0.5, "drop_path_rate": 0.0, "max_epochs": 2, "learning_rate": 0.005}
    for precision in ("float32", "bfloat16"):
        train(export, tmp_path / precision, precision=precision, **settings)
    found, expected = weights(tmp_path / "bfloat16"), weights(tmp_path / "float32")
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in found.values())
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in found])
    assert 0 < difference.abs().max() < 0.01
    losses = [float(curves(tmp_path / precision)[-1]["loss"]) for precision in ("float32", "bfloat16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(
    ("precision", "message"),
    [("float16", "float16 needs a GPU; use bfloat16 or float32"), ("float64", "must be one of float32, bfloat16")],
)
def test_impossible_precision_is_refused(precision: str, message: str, export: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        begin(export, tmp_path, precision=precision)
    cause: BaseException | None = caught.value
    while cause is not None and message not in str(cause):
        cause = cause.__cause__
    assert isinstance(cause, ValueError)


def test_scaler_of_float16_is_part_of_the_checkpoint(export: Path, tmp_path: Path) -> None:
    flow, trainer = begin(export, tmp_path)
    assert checkpoints_of(flow).parts["loss_scaler"] is trainer.loss_scaler


def test_compiled_bodies_keep_the_names_of_their_weights(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by the compiler and run by its eager backend: the same names, and near enough the same numbers."""
    compiled, used = torch.compile, []

    def with_eager_backend(*given: Any, **settings: Any) -> Any:
        used.append(settings)
        return compiled(*given, **settings, backend="eager")

    monkeypatch.setattr(torch, "compile", with_eager_backend)
    settings = {"max_epochs": 1, "num_layers": 1, "drop_path_rate": 0.0}
    train(export, tmp_path / "plain", **settings)
    assert used == []
    train(export, tmp_path / "compiled", compile=True, **settings)
    assert len(used) == 2, "student and teacher"
    found, expected = weights(tmp_path / "compiled"), weights(tmp_path / "plain")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)


def one_step(export: Path, output_dir: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """The student behind a training of one step of all twelve images."""
    once = {"max_epochs": 1, "warmup_epochs": 0, "drop_path_rate": 0.0, "frozen_prototype_epochs": 0, "clip": 0.0}
    flow, trainer = begin(export, output_dir, **once, **settings)
    steps: list[int] = []
    flow.parser.get_parsed_content("optimizer").register_step_post_hook(lambda *_: steps.append(1))
    gradients: dict[str, torch.Tensor] = {}

    def keep(_: object) -> None:
        gradients.update({name: parameter.grad.clone() for name, parameter in trainer.student.named_parameters()})

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=int(12 / settings["batch_size"])), keep)
    flow.run()
    assert len(steps) == 1
    return gradients


def test_added_up_gradients_are_those_of_one_large_batch(export: Path, tmp_path: Path) -> None:
    """Without anything that looks at a batch as a whole: standardisation, KoLeo, and a centre that moves."""
    plain = {
        **{"standardise_head": False, "koleo_weight": 0.0, "targets": "centring", "centre_momentum": 0.9999999},
    }
    one = one_step(export, tmp_path / "one", batch_size=12, **plain)
    for size, steps in ((4, 3), (2, 6)):
        many = one_step(export, tmp_path / f"{steps}", batch_size=size, accumulation_steps=steps, **plain)
        for name, gradient in one.items():
            torch.testing.assert_close(many[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_standardisation_over_a_part_of_the_batch_is_another(export: Path, tmp_path: Path) -> None:
    """What the README says of accumulation: statistics are those of each part."""
    one = one_step(export, tmp_path / "one", batch_size=12)
    many = one_step(export, tmp_path / "many", batch_size=4, accumulation_steps=3)
    difference = torch.cat([(one[name] - many[name]).flatten() for name in one]).norm()
    assert difference > 0.01 * torch.cat([gradient.flatten() for gradient in one.values()]).norm()


def test_last_step_of_an_epoch_may_add_up_fewer(export: Path, tmp_path: Path) -> None:
    flow, _ = begin(export, tmp_path, batch_size=2, accumulation_steps=4, max_epochs=2)
    steps: list[int] = []
    flow.parser.get_parsed_content("optimizer").register_step_post_hook(lambda *_: steps.append(1))
    flow.run()
    assert len(steps) == 4  # 4 + 2 batches an epoch


def test_teacher_follows_once_a_step_by_the_scheduled_momentum(export: Path, tmp_path: Path) -> None:
    flow, trainer = begin(export, tmp_path, teacher_momentum=0.3)
    expected = {name: tensor.clone() for name, tensor in trainer.teacher.named_parameters()}

    def follow(_: object) -> None:
        momentum = trainer.state.schedule["teacher_momentum"]
        for name, parameter in trainer.student.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * parameter.detach()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, follow)
    flow.run()
    for name, parameter in trainer.teacher.named_parameters():
        torch.testing.assert_close(parameter, expected[name], msg=name)
    assert not trainer.teacher.training
    assert_same(
        weights(tmp_path), {**weights(tmp_path), **{f"body.{n}": p for n, p in trainer.teacher.body.named_parameters()}}
    )


def test_gradients_are_clipped(export: Path, tmp_path: Path) -> None:
    flow, trainer = begin(export, tmp_path, clip=0.5)
    norms: list[float] = []

    def measure(_: object) -> None:
        grads = [p.grad.flatten() for p in trainer.student.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, measure)
    flow.run()
    assert max(norms) <= 0.5 + 1e-4
    assert float(curves(tmp_path)[0]["gradient_norm"]) > 0.5, "what is shown is the norm before the clip"


def test_student_learns_what_the_teacher_says(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", images=range(48), num_views=1)
    settings = {
        "learning_rate": 0.02,
        "max_epochs": 12,
        "batch_size": 16,
        "drop_path_rate": 0.0,
        "teacher_momentum": 0.9,
    }
    train(export, tmp_path / "out", **settings)
    rows = curves(tmp_path / "out")
    assert float(rows[-1]["kl"]) < 0.8 * float(rows[0]["kl"])
    assert float(rows[-1]["feature_rank"]) > 2


def test_seed_alone_decides(export: Path, tmp_path: Path) -> None:
    for folder, seed in (("one", 3), ("same", 3), ("other", 4)):
        torch.rand(7)  # whatever was drawn before
        train(export, tmp_path / folder, seed=seed)
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "same"))
    with pytest.raises(AssertionError):
        assert_same(weights(tmp_path / "one"), weights(tmp_path / "other"))


def test_faults_are_logged_with_the_batch(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil_loss(monkeypatch, 5)
    with caplog.at_level(logging.WARNING):
        train(export, tmp_path)
    assert "in epoch 2, batch 1 (images " in caplog.text


def test_settings_of_these_runs_are_the_bundles(export: Path, tmp_path: Path) -> None:
    known = json.loads(TRAIN.read_text())
    assert SMALL.keys() <= known.keys()
    assert isinstance(begin(export, tmp_path)[1], SupervisedTrainer)
