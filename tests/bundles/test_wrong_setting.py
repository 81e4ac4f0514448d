"""What a user reads first when a setting is wrong: its name, its value, and the file or command line that gave it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, completed

IMAGES_NEEDED = pytest.mark.usefixtures("image")


@pytest.fixture
def image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"\x89PNG")


def ended(bundle: str, configs: list[str], folder: Path, *flags: str, **environment: str) -> list[str]:
    """What one command says on stderr, from its error on: before it stand MONAI's warning and the log."""
    files = [str(BUNDLES / bundle / "configs" / name) if "/" not in name else name for name in configs]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files) if files[1:] else files[0]]
    given = ["--bundle_root", str(BUNDLES / bundle), "--dataset_dir", str(folder / "images"), "--output_dir", "out"]
    done = completed([*command, *given, *flags], cwd=folder, env={**os.environ, **environment})
    assert done.returncode == 1
    before, _, said = done.stderr.partition("error: ")
    assert "Traceback" not in before
    return said.splitlines()


def test_value_in_a_laid_over_file_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"batch_size": 0}))
    said = ended("cxr_classification", ["train.json", f"{tmp_path}/mine.json"], tmp_path)
    start = "--batch_size must be a whole number of at least 1, got 0."
    assert said == [f"{start} (batch_size = 0 in {tmp_path}/mine.json)"]


def test_flag_that_a_component_reads_is_named_though_the_component_cannot_know_it(tmp_path: Path) -> None:
    said = ended("cxr_segmentation", ["inference.json"], tmp_path, "--device", "gpu")
    assert said == ["--device must be cpu, cuda or cuda:0 for example, got 'gpu'. (device = gpu on the command line)"]


@IMAGES_NEEDED
def test_expression_that_fails_names_the_setting_inside_it(tmp_path: Path) -> None:
    flags = ["--site_id", "h", "--allow_lateral", "yes"]
    (said,) = ended("cxr_embedding_export", ["inference.json"], tmp_path, *flags)
    assert said.startswith("'yes' is neither true nor false;")
    assert said.endswith("(allow_lateral = yes on the command line)")


def test_value_in_an_args_file_is_named_with_it(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps({"num_heads": "six"}))
    (said,) = ended("cxr_msdino_pretraining", ["train.json"], tmp_path, "--args_file", "args.json")
    assert said.endswith("got 'six'. (num_heads = six in args.json)")


def test_long_trace_follows_the_line_on_demand(tmp_path: Path) -> None:
    said = ended("sam_federated_segmentation", ["inference.json"], tmp_path, "--windows", "0.5", MONAI_DEBUG="true")
    assert said[0].startswith("--windows must be a whole number")
    assert said[0].endswith("(windows = 0.5 on the command line)")
    assert said[1].startswith("Traceback")
    assert any(line.startswith("RuntimeError: Failed to evaluate") for line in said)
