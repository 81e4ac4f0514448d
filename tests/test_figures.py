"""The figures in READMEs and in eval_metrics are those of the committed result files."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "figures.py"


@pytest.fixture
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_of_the_repository", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_figure_has_drifted() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figure_that_was_edited_is_noticed(figures: ModuleType) -> None:
    for path, text in figures.pages().items():
        block = figures.filled(text) if path.suffix == ".md" else text
        assert block == text, path
    page = "before\n<!-- figures: lungs -->\n| right lung | 0.999 |\n<!-- end -->\nafter 0.999\n"
    made = figures.filled(page)
    assert "| right lung | 0.999 |" not in made
    assert made.startswith("before\n")
    assert made.endswith("\nafter 0.999\n")
    assert figures.filled(made) == made


def test_metrics_of_every_bundle_come_from_results(figures: ModuleType) -> None:
    lungs = json.loads((ROOT / "docs" / "benchmarks" / "lungs.json").read_text())["results"]
    scores = figures.eval_metrics()
    assert scores.keys() == {path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json")}
    assert scores["cxr_segmentation"]["synthetic_lungs_mean_dice"] == round(lungs["mean_dice"]["value"], 4)
    text = (ROOT / "bundles" / "cxr_segmentation" / "configs" / "metadata.json").read_text()
    changed = json.loads(figures.with_metrics(text, {"synthetic_lungs_mean_dice": 0.5}))
    assert changed["eval_metrics"] == {"synthetic_lungs_mean_dice": 0.5}
    assert {**changed, "eval_metrics": None} == {**json.loads(text), "eval_metrics": None}


def test_default_of_the_export_is_what_the_figures_choose(figures: ModuleType) -> None:
    config = json.loads((ROOT / "bundles" / "cxr_embedding_export" / "configs" / "inference.json").read_text())
    settings = figures.chosen(figures.candidates())["settings"]
    assert {name: config[name] for name in settings} == settings


def test_equals_are_told_apart_by_what_they_give_back(figures: ModuleType) -> None:
    best = {"setting": "best", "passes": True, "worst": 0.15, "gap": 0.0, "error": 0.0}
    equal = {"setting": "equal", "passes": True, "worst": 0.10, "gap": -0.002, "error": 0.004}
    behind = {"setting": "behind", "passes": True, "worst": 0.05, "gap": -0.009, "error": 0.004}
    failing = {"setting": "failing", "passes": False, "worst": 0.01, "gap": 0.01, "error": 0.001}
    assert figures.chosen([best, behind])["setting"] == "best"
    assert figures.chosen([best, equal, behind, failing])["setting"] == "equal"


def test_every_figure_that_can_be_made_is_on_a_page(figures: ModuleType) -> None:
    found = {name for path in figures.pages() for _, name, _ in figures._BLOCK.findall(path.read_text())}
    assert found == set(figures.BLOCKS)


def test_finished_demo_becomes_a_result_file(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures.blocks, "RESULTS", tmp_path)
    finished = {"date": "2000-01-01", "machine": {"hardware": "an abacus"}, "size": {"patients": 1}}
    finished |= {"stages": {"One": 60.04, "Two": 120.0}}
    (tmp_path / "finished.json").write_text(json.dumps(finished))
    bundle = tmp_path / "bundles" / "cxr_segmentation"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").mkdir()
    (bundle / "configs" / "metadata.json").write_text('{"eval_metrics": {"synthetic_demo_test_mean_dice": 0.5}}')
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "audit.json").write_text('{"verdict": {"result": "pass"}}')
    figures.take_demo(tmp_path, 30.0, "with other work")
    kept = json.loads((tmp_path / "demo.json").read_text())
    assert kept["audit"] == {"result": "pass"}
    assert kept["results"] == {"cxr_segmentation": {"synthetic_demo_test_mean_dice": 0.5}}
    said = figures.demo_block()
    assert "3.0 minutes on an abacus (with other work); installing took 0.5 minutes more" in said.replace("\n", " ")
    assert '"Two", took 2.0 minutes' in said.replace("\n", " ")
