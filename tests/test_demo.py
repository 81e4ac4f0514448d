from __future__ import annotations

import importlib
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from msdino_monai.__main__ import VERBS, check_arguments
from msdino_monai.settings import known_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_of_the_repository", ROOT / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def way_of(demo: ModuleType, folder: Path, *commands: list[str], **stage: Any) -> Any:
    """A way of one stage."""

    class Short(demo.Way):
        def stages(self) -> list[Any]:
            def each() -> Iterator[list[str]]:
                yield from commands

            return [demo.Stage("Short", 1, each, **stage)]

    return Short(folder, demo.SIZES["small"])


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_finished_stages_are_kept(demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo.walk(way_of(demo, tmp_path, python("print('worked')")))
    demo.walk(way_of(demo, tmp_path, python("raise SystemExit('worked again')")))
    said = capfd.readouterr().out
    assert said.count("worked\n") == 1
    assert "Short: finished before" in said


def test_failing_step_says_what_to_repeat(demo: ModuleType, tmp_path: Path) -> None:
    failing = python("raise SystemExit(1)")
    with pytest.raises(SystemExit, match="Repeat it with") as stopped:
        demo.walk(way_of(demo, tmp_path, failing))
    line = next(line for line in str(stopped.value).splitlines() if line.startswith("  python"))
    assert shlex.split(line) == ["python", *failing[1:]]
    assert not (tmp_path / "finished.json").exists()


def test_quarantine_and_verdicts_do_not_stop_the_demo(demo: ModuleType, tmp_path: Path) -> None:
    demo.walk(way_of(demo, tmp_path / "a", python("raise SystemExit(3)")))
    verdict = tmp_path / "audit.json"
    judge = python(f"open({str(verdict)!r}, 'w').close(); raise SystemExit(1)")
    demo.walk(way_of(demo, tmp_path / "b", judge, verdict=verdict))
    with pytest.raises(SystemExit, match="Repeat"):
        demo.walk(way_of(demo, tmp_path / "c", python("raise SystemExit(1)"), verdict=tmp_path / "none"))


def test_folder_of_another_size_is_refused(demo: ModuleType, tmp_path: Path) -> None:
    demo.walk(way_of(demo, tmp_path, python("pass")))
    with pytest.raises(SystemExit, match="demo of another size"):
        demo.walk(demo.Way(tmp_path, demo.SIZES["demo"]))


def test_every_command_names_files_and_settings_that_exist(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    way = demo.Way(tmp_path, demo.SIZES["demo"])
    monkeypatch.setattr(way, "key", lambda _: "key")
    monkeypatch.setattr(way, "trust", lambda: None)
    monkeypatch.setattr(way, "complete_bundles", lambda: None)
    commands = [command for stage in way.stages() for command in stage.commands()]
    runs = [command for command in commands if command[2] == "monai.bundle"]
    assert len(runs) > 15
    for command in runs:
        given = {word[2:] for word in command[4:] if word.startswith("--")}
        assert given - {"config_file", "bundle_root"} <= set(known_settings(command[4:])), demo.shown(command)
    for command in commands:
        if command[2] == "msdino_monai":
            module, name, _ = VERBS[command[3]]
            check_arguments(getattr(importlib.import_module(module), name), command[4:])


def test_bundles_of_the_demo_hold_the_weights(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("pretraining/models", "classification/hospital_a/models", "segmentation/hospital_a/models"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.pt").touch()
    (tmp_path / "federation" / "global").mkdir(parents=True)
    (tmp_path / "federation" / "global" / "model.pt").touch()
    demo.Way(tmp_path, demo.SIZES["small"]).complete_bundles()
    found = {path.parents[1].name for path in (tmp_path / "bundles").glob("*/models/model.pt")}
    assert found == {path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()} - {"cxr_embedding_export"}
    for bundle in (tmp_path / "bundles").iterdir():
        assert json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
