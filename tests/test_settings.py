from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from msdino_monai.errors import UserError
from msdino_monai.flags import as_flag
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.networks import PatchEmbedding
from msdino_monai.settings import (
    _PATHS,
    check_settings,
    finish,
    known_settings,
    needed_from_people,
    one_line_excepthook,
    text_setting,
)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line of `monai.bundle run` with two config files, one changing the other."""
    (tmp_path / "a.json").write_text('{"_desc_": "x", "dataset_dir": null, "noise": 0}')
    (tmp_path / "b.json").write_text('{"batch_size": 1}')
    argv = ["/x/monai/bundle/__main__.py", "run", "--config_file", f"['{tmp_path}/a.json','{tmp_path}/b.json']"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return argv


def test_settings_are_the_names_of_all_config_files(typed: list[str]) -> None:
    assert known_settings(typed[2:]) == ["dataset_dir", "noise", "batch_size"]


def test_settings_of_a_tracking_file_are_known(typed: list[str], tmp_path: Path) -> None:
    (tmp_path / "track.json").write_text('{"handlers_id": {}, "configs": {"tracking_uri": null}}')
    assert known_settings([*typed[2:], "--tracking", f"{tmp_path}/track.json"])[-1] == "tracking_uri"
    assert "tracking_uri" not in known_settings([*typed[2:], "--tracking", "mlflow"])


@pytest.mark.parametrize("flag", ["--noise=1", "--batch-size=2", "--noise#deep=1", "--run_id=run"])
def test_known_settings_pass(typed: list[str], flag: str) -> None:
    typed.append(flag)
    check_settings({"dataset_dir": "d"})


@pytest.mark.usefixtures("typed")
def test_settings_of_an_args_file_are_known(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(f'{{"config_file": "{tmp_path}/a.json"}}')
    assert known_settings(["--args_file", f"{tmp_path}/args.json", "--noise", "1"]) == ["dataset_dir", "noise"]


@pytest.mark.parametrize("text", ["007", "1e5", "0x10", "hospital_a"])
def test_text_is_kept_as_it_was_typed(typed: list[str], text: str) -> None:
    typed.extend(["--site_id", text])
    assert text_setting("site_id", 12345) == text


@pytest.mark.parametrize(("text", "read"), [("2024.10", "2024.1"), ("2024_06_01", "20240601"), ("export#2", "export")])
def test_path_that_fire_would_change_is_refused(typed: list[str], text: str, read: str) -> None:
    typed.extend(["--dataset_dir", text])
    with pytest.raises(UserError, match=rf"--dataset_dir {text} was read as {read}; write --dataset_dir \./{text}\."):
        check_settings({})


@pytest.mark.parametrize("text", ["./2024.10", "./export#2", "2024-06-01", "007", "/d/2024.10", "~/a b", "'a'", "None"])
def test_path_that_stays_as_it_was_typed_passes(typed: list[str], text: str) -> None:
    typed.extend([f"--dataset_dir={text}", "--noise=0.1"])
    check_settings({})


def test_every_setting_that_sounds_like_a_path_is_checked() -> None:
    configs = (Path(__file__).parents[1] / "bundles").glob("*/configs/*.json")
    parts = [part for config in configs for part in json.loads(config.read_text()).items()]
    names = {name for name, value in parts if not isinstance(value, dict)}
    sounding = {name for name in names if re.search(r"(_dir|_file|_key|list|checkpoint)$", name)}
    assert sounding - {"label_key"} <= _PATHS <= names


def test_text_of_a_program_is_taken_as_it_is() -> None:
    assert text_setting("site_id", 7) == "7"


def test_unknown_setting_is_refused_with_the_nearest(typed: list[str]) -> None:
    typed.extend(["--nois", "1"])
    with pytest.raises(UserError, match="did you mean --noise"):
        check_settings({})


def test_missing_settings_are_named() -> None:
    with pytest.raises(UserError, match="missing --dataset_dir, --site_id"):
        check_settings({"dataset_dir": None, "output_dir": "o", "site_id": ""})


def wrapped(cause: Exception) -> RuntimeError:
    try:
        raise RuntimeError("Failed to instantiate component") from cause
    except RuntimeError as error:
        return error


def test_error_of_the_user_is_one_line_however_deep(capsys: pytest.CaptureFixture[str]) -> None:
    error = wrapped(wrapped(UserError("give --site_id.")))
    one_line_excepthook(type(error), error, None)
    assert capsys.readouterr().err == "error: give --site_id.\n"


def test_refused_argument_of_our_own_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="margin") as refusal:
        PatchEmbedding(margin=99)
    error = wrapped(refusal.value)
    one_line_excepthook(type(error), error, None)
    assert capsys.readouterr().err.startswith("error: margin must leave pixels")


class Files(Dataset):  # type: ignore[type-arg]
    """A data set whose worker finds something the user can put right, or is killed."""

    def __init__(self, killed: bool) -> None:
        self.killed = killed

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("disk full; free space.")


@pytest.mark.parametrize(
    ("killed", "message"),
    [(False, "error: disk full; free space.\n"), (True, "error: a process that reads images was")],
)
def test_trouble_in_a_loader_worker_is_one_line(killed: bool, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UserError, RuntimeError)) as trouble:
        list(DataLoader(Files(killed), num_workers=1))
    one_line_excepthook(trouble.type, trouble.value, None)
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1


def test_interruption_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    one_line_excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted; the same command goes on from here.\n"


def test_error_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = wrapped(ValueError("deep inside somebody's library"))
    one_line_excepthook(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), (True, True), (False, False)])
def test_flags_are_read_as_people_type_them(text: object, value: bool) -> None:
    assert as_flag(text) is value


@pytest.mark.parametrize("text", ["yes", 1, None, ""])
def test_other_texts_are_no_flags(text: object) -> None:
    with pytest.raises(UserError, match="neither true nor false"):
        as_flag(text)


def test_quarantine_ends_a_command_with_status_3_and_nothing_else(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from msdino_monai.errors import RadiographError

    quarantine = Quarantine(tmp_path / "notes")
    quarantine.clear()
    finish(quarantine)
    assert capsys.readouterr().out == ""
    quarantine.reject("a.dcm", RadiographError("open", "broken", "mend it"))
    with pytest.raises(SystemExit) as end:
        finish(quarantine)
    assert end.value.code == 3
    assert "1 quarantined" in capsys.readouterr().out
    typed[0] = "/usr/bin/their_program.py"
    finish(quarantine)
    typed[0] = "/x/monai/bundle/__main__.py"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    finish(quarantine)


@pytest.mark.usefixtures("typed")
def test_people_must_name_their_images_and_programs_may_bring_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed_from_people(dataset_dir=None) == {"dataset_dir": None}
    monkeypatch.setattr(sys, "argv", ["/x/their_program.py"])
    assert needed_from_people(dataset_dir=None) == {}
    with pytest.raises(UserError, match=r"missing --dataset_dir; a program gives dataset_dir=\.\.\."):
        check_settings(needed_from_people(dataset_dir=""))


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize(("device", "said"), [("gpu", "must be cpu"), ("cuda:9", "torch finds")])
def test_device_that_is_not_there_is_refused(device: str, said: str, typed: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"device": "$nobody.reads()"}')
    check_settings({})
    typed.extend(["--device", device])
    with pytest.raises(UserError, match=said):
        check_settings({})


def test_message_ends_with_the_setting_and_its_place(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.extend(["--noise", "2"])
    (tmp_path / "a.json").write_text('{"run": ["$@evaluator.run()"], "network_def": {"_target_": "x"}, "noise": 0}')
    for message, place in {
        "--noise must be small.": "noise = 2 on the command line",
        "batch_size must be positive, got 1.": f"batch_size = 1 in {tmp_path}/b.json",
        "no disk; free 2 GB.": "",
        "run the audit first.": "",
        "network_def cannot be built.": "",
        "missing --dataset_dir.": "",
    }.items():
        one_line_excepthook(UserError, UserError(message), None)
        assert capsys.readouterr().err == f"error: {message}" + (f" ({place})" if place else "") + "\n"


def test_training_in_monai_label_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/monailabel/interfaces/utils/app.py", "-m", "train"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    check_settings({"output_dir": "o"})
    assert sys.excepthook is one_line_excepthook
