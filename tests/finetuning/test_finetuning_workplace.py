from __future__ import annotations

from pathlib import Path

import pytest
import torch

from msdino_monai.errors import UserError
from msdino_monai.finetuning.workplace import begin, file_names, text_or_none
from msdino_monai.workplace import own_folder


def test_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    draws = []
    for seed in (1, 1, 2):
        begin(seed, tmp_path / "made" / "here", False)
        draws.append(torch.rand(3))
    assert (tmp_path / "made" / "here").is_dir()
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_ranks_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="without multi_gpu_train"):
        begin(0, tmp_path, False)
    begin(0, tmp_path, True)


def test_numbers_from_the_command_line_become_paths_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert text_or_none(7) == "7"
    assert text_or_none(None) is None
    assert own_folder("7", "models") == str(tmp_path.resolve() / "7" / "models")


def test_names_of_files_are_safe_and_distinct() -> None:
    assert file_names(["nodule <3cm", "nodule >3cm", "a/b"]) == ["nodule_3cm_1", "nodule_3cm_2", "a_b"]
