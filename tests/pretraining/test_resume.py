from __future__ import annotations

import logging
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from pretraining_runs import (
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
from msdino_monai.pretraining import Checkpoints, TokenBatches
from msdino_monai.pretraining.checkpoint import RandomState

pytestmark = pytest.mark.usefixtures("_without_picture")

RUNS: dict[str, dict[str, Any]] = {
    "centring, hidden tokens": {"targets": "centring", "token_weight": 0.5, "checkpoint_every_iterations": 2},
    "two views, drawn shares": {
        **{"different_views": True, "global_share": (0.5, 1.0), "local_share": (0.1, 0.5)},
        **{"prefetch": 2, "checkpoint_every_iterations": 0},
    },
    "added up gradients": {"batch_size": 2, "accumulation_steps": 4, "checkpoint_every_iterations": 1},
}


@pytest.fixture(scope="module")
def undisturbed(export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same runs from their beginning to their end."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msdino_monai.pretraining.curves.as_picture", lambda _: b"not drawn")
        for name, settings in RUNS.items():
            folders[name] = tmp_path_factory.mktemp("undisturbed")
            train(export, folders[name], **settings)
    return folders


def assert_equal_runs(one: Path, other: Path) -> None:
    assert_same(weights(one), weights(other))
    assert_same(student_weights(one), student_weights(other))
    assert curves(one) == curves(other)


class Killed(BaseException):
    """Nobody handles it, as nobody handles kill -9."""


def stop(dataset_dir: Path, output_dir: Path, at: int, **settings: Any) -> None:
    """A run that is asked to stop in iteration `at`, and does."""
    flow, trainer = begin(dataset_dir, output_dir, **settings)
    ask = checkpoints_of(flow).ask_to_stop
    trainer.add_event_handler(Events.ITERATION_STARTED(once=at), lambda _: ask())
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert not (output_dir / "models").exists()


def kill(dataset_dir: Path, output_dir: Path, at: int, event: Events, **settings: Any) -> ConfigWorkflow:
    """A run that ends without a word."""
    flow, trainer = begin(dataset_dir, output_dir, **settings)

    def die(_: object) -> None:
        raise Killed

    trainer.add_event_handler(event(once=at), die)
    with pytest.raises(Killed):
        flow.run()
    return flow


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("at", [2, 3, 7, 9])
def test_stopped_run_goes_on_bit_for_bit(
    name: str, at: int, export: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    """In the middle of an epoch or at its end, in the middle of a step of added gradients or not."""
    stop(export, tmp_path, at, **RUNS[name])
    train(export, tmp_path, **RUNS[name])
    assert_equal_runs(tmp_path, undisturbed[name])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("at", "event"), [(1, Events.ITERATION_STARTED), (5, Events.ITERATION_COMPLETED)])
def test_killed_run_goes_on_bit_for_bit(
    name: str, at: int, event: Events, export: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    kill(export, tmp_path, at, event, **RUNS[name])
    train(export, tmp_path, **RUNS[name])
    assert_equal_runs(tmp_path, undisturbed[name])


@pytest.mark.parametrize("at", [1, 2])
def test_run_killed_at_an_epochs_end_keeps_the_epochs_curves(
    at: int, export: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    name = "centring, hidden tokens"
    kill(export, tmp_path, at, Events.EPOCH_COMPLETED, **RUNS[name])
    train(export, tmp_path, **RUNS[name])
    assert_equal_runs(tmp_path, undisturbed[name])


def test_run_stopped_again_and_again_arrives(export: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    name = "centring, hidden tokens"
    for at in (1, 2, 3, 5, 8):
        stop(export, tmp_path, at, **RUNS[name])
    train(export, tmp_path, **RUNS[name])
    assert_equal_runs(tmp_path, undisturbed[name])


def test_random_state_is_needed_for_this(
    export: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stochastic depth draws in every iteration: these tests would notice if its generator were forgotten."""
    name = "centring, hidden tokens"
    stop(export, tmp_path, 4, **RUNS[name])
    monkeypatch.setattr(RandomState, "load_state_dict", lambda *_: None)
    train(export, tmp_path, **RUNS[name])
    with pytest.raises(AssertionError):
        assert_same(weights(tmp_path), weights(undisturbed[name]))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    path.write_bytes(
        {"emptied": b"", "cut": data[: len(data) // 2], "cut by a byte": data[:-1], "flipped": bytes(flipped)}[how]
    )


@pytest.mark.parametrize("how", ["emptied", "cut", "cut by a byte", "flipped"])
def test_damaged_checkpoint_gives_way_to_an_older_one(
    how: str, export: Path, undisturbed: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "centring, hidden tokens"
    stop(export, tmp_path, 7, **RUNS[name])
    older, newest = sorted((tmp_path / "checkpoints").iterdir())
    assert newest.name == "checkpoint_00000007.pt"
    damage(newest, how)
    with caplog.at_level(logging.INFO):
        train(export, tmp_path, **RUNS[name])
    assert f"{newest} is not whole" in caplog.text
    assert f"from {older}" in caplog.text
    assert_equal_runs(tmp_path, undisturbed[name])


def test_without_a_whole_checkpoint_nothing_is_trained(export: Path, tmp_path: Path) -> None:
    stop(export, tmp_path, 4)
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path, "cut")
    with pytest.raises(RuntimeError) as caught:
        train(export, tmp_path)
    assert "remove them, or name a new --output_dir" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.01}, "learning_rate: 0.05 there, 0.01 now"),
        ({"hidden_size": 32}, "body"),
        ({"batch_size": 2}, "images_per_step: 4 there, 2 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"max_epochs": 5}, "max_epochs: 3 there, 5 now"),
    ],
)
def test_other_settings_are_refused(changes: dict[str, Any], words: str, export: Path, tmp_path: Path) -> None:
    stop(export, tmp_path, 2)
    with pytest.raises(RuntimeError) as caught:
        train(export, tmp_path, **changes)
    assert words in str(caught.value.__cause__)
    assert "name a new --output_dir" in str(caught.value.__cause__)


def test_other_exports_are_refused(export: Path, tmp_path: Path) -> None:
    stop(export, tmp_path / "out", 2)
    other = write_export(tmp_path / "other")
    with pytest.raises(RuntimeError) as caught:
        train(other, tmp_path / "out")
    assert "belongs to other settings (exports" in str(caught.value.__cause__)


def test_settings_that_change_no_weight_may_change(export: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    name = "centring, hidden tokens"
    stop(export, tmp_path, 4, **RUNS[name])
    free = {"keep_checkpoints": 1, "checkpoint_every_iterations": 5, "prefetch": 3, "checkpoint_blocks": True}
    train(export, tmp_path, **{**RUNS[name], **free})
    assert_same(weights(tmp_path), weights(undisturbed[name]))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_complete_training_says_so_and_leaves_its_models(
    export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(export, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    for path in before:
        path.unlink()
    with caplog.at_level(logging.INFO):
        train(export, tmp_path)
    assert "This training is complete." in caplog.text
    assert {path: path.read_bytes() for path in (tmp_path / "models").iterdir()} == before
    assert len(before) == 3


@pytest.mark.parametrize("keep", [1, 3])
def test_last_checkpoints_are_kept_and_private(keep: int, export: Path, tmp_path: Path) -> None:
    train(export, tmp_path, keep_checkpoints=keep, checkpoint_every_iterations=2)
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in files] == [f"checkpoint_{n:08d}.pt" for n in (6, 8, 9)][-keep:]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_full_disk_leaves_the_older_checkpoint(
    export: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails half-way is an error of one line, and no file that looks like a checkpoint."""
    name = "two views, drawn shares"
    written = []

    def fail(path: Path, data: bytes, private: bool) -> None:
        written.append(path)
        if len(list((tmp_path / "checkpoints").glob("checkpoint_*.pt"))) == 2:
            path.write_bytes(data[:100])
            raise OSError(28, "No space left on device")
        write(path, data, private)

    from msdino_monai.vault import atomic

    write = atomic._write_durably
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_write_durably", fail)
        with pytest.raises(RuntimeError) as caught:
            train(export, tmp_path, **RUNS[name])
    assert "disk full" in str(caught.value.__cause__)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    train(export, tmp_path, **RUNS[name])
    assert_equal_runs(tmp_path, undisturbed[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_heard_once_and_the_run_ends_behind_its_iteration(
    number: signal.Signals, export: Path, tmp_path: Path
) -> None:
    flow, trainer = begin(export, tmp_path)
    before = signal.getsignal(number)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=5), lambda _: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoints" / "checkpoint_00000005.pt").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_second_signal_acts_at_once(export: Path, tmp_path: Path) -> None:
    flow, trainer = begin(export, tmp_path)

    def insist(_: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    trainer.add_event_handler(Events.ITERATION_STARTED(once=5), insist)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert not (tmp_path / "checkpoints" / "checkpoint_00000005.pt").exists()
    assert (tmp_path / "checkpoints" / "checkpoint_00000003.pt").exists()


def test_half_written_file_of_a_killed_run_is_removed(export: Path, tmp_path: Path) -> None:
    stop(export, tmp_path, 4)
    half = tmp_path / "checkpoints" / ".0123456789abcdef.tmp"
    half.write_bytes(b"half a checkpoint")
    train(export, tmp_path)
    assert not half.exists()


def test_checkpoint_of_another_version_is_refused(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("msdino_monai.checkpoint._VERSION", 0)
        stop(export, tmp_path, 2)
    with pytest.raises(RuntimeError) as caught:
        train(export, tmp_path)
    assert re.search(r"written by another version; finish with that one", str(caught.value.__cause__))


def test_impossible_settings_are_refused(export: Path, tmp_path: Path) -> None:
    batches = TokenBatches(store_of(export), 4)
    for wrong in ({"keep": 0}, {"every_iterations": -1}):
        with pytest.raises(ValueError, match="keep starts at 1 and every_iterations at 0"):
            Checkpoints(tmp_path, {}, batches, {}, **wrong)


def test_folder_that_cannot_be_written_is_found_before_the_first_iteration(export: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    flow, trainer = begin(export, tmp_path)
    started = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: started.append(1))
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, UserError)
    assert started == []
