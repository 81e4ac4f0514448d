from __future__ import annotations

import subprocess
import sys

import pytest

from msdino_monai.__main__ import VERBS, main
from msdino_monai.errors import UserError
from msdino_monai.flags import check_flags


def test_no_argument_shows_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: python -m msdino_monai {verb}" in shown
    assert "--" in shown
    assert len(shown.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cohrt"], "unknown verb 'cohrt'"),
        (["survey", "--dataset_dir", "x"], "missing --output_dir"),
        (["survey", "--dataset_dirr", "x", "--output_dir", "y"], "did you mean --dataset_dir?"),
        (["survey", "--output_dir=a", "--output_dir=b", "--dataset_dir=x"], "--output_dir is given twice"),
        (["survey", "--output_dir", "--dataset_dir=x"], "--output_dir needs a value"),
        (["survey", "--dataset_dir=x", "--output_dir=a", "extra"], "unexpected 'extra'"),
        (["survey", "x", "--output_dir=a", "--dataset_dir=x"], "unexpected 'x'"),
    ],
)
def test_wrong_argument_gets_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_failure_gets_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", "--dataset_dir", "/nowhere", "--output_dir", "/nowhere/else"]) == 1
    error = capsys.readouterr().err
    assert "'/nowhere' is not a folder" in error
    assert error.count("\n") == 1


def test_module_runs_as_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "msdino_monai", "--help"], capture_output=True, text=True, check=True
    )
    assert "not a medical device" in result.stdout


def test_negative_numbers_and_dashes_are_not_flags() -> None:
    assert check_flags(["--seed", "-3", "--output-dir", "a"], ["seed", "output_dir"]) == {
        "seed": "-3",
        "output_dir": "a",
    }
    with pytest.raises(UserError, match="known are: --seed"):
        check_flags(["--zzz"], ["seed"])
