from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture(autouse=True)
def no_second_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling all libraries anew, into each demo's own folder, would take most of the time of these tests."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")


def way_of(demo: ModuleType, folder: Path, *commands: list[str], **stage: Any) -> Any:
    """A way of one stage."""

    class Short(demo.Way):
        def stages(self) -> list[Any]:
            def each() -> Iterator[list[str]]:
                yield from commands

            return [demo.Stage("Short", 1, each, **{"leaves": (folder,), **stage})]

    return Short(folder, demo.SIZES["small"])


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_finished_stages_are_kept(demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo.walk(way_of(demo, tmp_path, python("print('worked')")))
    demo.walk(way_of(demo, tmp_path, python("raise SystemExit('worked again')")))
    said = capfd.readouterr().out
    assert said.count("worked\n") == 1
    assert "Short: finished before" in said


def test_stage_whose_work_is_gone_is_made_again(
    demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    way = way_of(demo, tmp_path, python(f"open({str(made)!r}, 'w').close()"), leaves=(tmp_path, made))
    demo.walk(way)
    made.unlink()
    demo.walk(way)
    assert made.exists()
    assert f"finished before, but {made} is gone" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["bundles", "mine.txt"])
def test_folder_with_other_files_is_left_alone(name: str, tmp_path: Path) -> None:
    """`--output_dir .` would replace the repository's own bundles."""
    (tmp_path / name).mkdir()
    command = [sys.executable, str(ROOT / "demo.py"), "--output_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "holds other files, and a demo replaces what it finds" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_failing_step_says_what_to_repeat(demo: ModuleType, tmp_path: Path) -> None:
    failing = python("raise SystemExit(1)")
    with pytest.raises(SystemExit, match="Repeat it with") as stopped:
        demo.walk(way_of(demo, tmp_path, failing))
    line = next(line for line in str(stopped.value).splitlines() if line.startswith("  python"))
    assert shlex.split(line) == ["python", *failing[1:]]
    assert json.loads((tmp_path / "finished.json").read_text())["stages"] == {}


def test_time_of_failed_attempts_counts(demo: ModuleType, tmp_path: Path) -> None:
    slow = "import pathlib, time; time.sleep(0.2); done = pathlib.Path({0!r}); failed = not done.exists()"
    slow += "; done.touch(); raise SystemExit(failed)"
    way = way_of(demo, tmp_path, python(slow.format(str(tmp_path / "tried"))))
    with pytest.raises(SystemExit):
        demo.walk(way)
    demo.walk(way)
    page = json.loads((tmp_path / "finished.json").read_text())
    assert page["stages"]["Short"] >= 0.4
    assert page["unfinished"] == {}


def test_error_between_two_commands_is_one_line(demo: ModuleType, tmp_path: Path) -> None:
    class Broken(demo.Way):
        def stages(self) -> list[Any]:
            return [demo.Stage("Broken", 1, self.read_what_is_not_there, (tmp_path,))]

        def read_what_is_not_there(self) -> Iterator[list[str]]:
            yield python("print('a command')")
            self.read("missing.json")

    with pytest.raises(SystemExit, match=r"Broken: failed .*missing\.json.*Run the demo again"):
        demo.walk(Broken(tmp_path, demo.SIZES["small"]))


def test_quarantine_and_verdicts_do_not_stop_the_demo(demo: ModuleType, tmp_path: Path) -> None:
    demo.walk(way_of(demo, tmp_path / "a", python("raise SystemExit(3)")))
    verdict = tmp_path / "audit.json"
    judge = python(f"open({str(verdict)!r}, 'w').close(); raise SystemExit(1)")
    demo.walk(way_of(demo, tmp_path / "b", judge, leaves=(verdict,), is_verdict=True))
    with pytest.raises(SystemExit, match="Repeat"):
        demo.walk(
            way_of(demo, tmp_path / "c", python("raise SystemExit(1)"), leaves=(tmp_path / "none",), is_verdict=True)
        )


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
    write_results(tmp_path)
    fitted: list[str] = []
    monkeypatch.setattr(
        "msdino_monai.sharing.shape.fit_metadata", lambda bundle: fitted.append(bundle.name)
    )  # needs real weights
    demo.Way(tmp_path, demo.SIZES["small"]).complete_bundles()
    found = {path.parents[1].name for path in (tmp_path / "bundles").glob("*/models/model.pt")}
    assert found == {path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()} - {"cxr_embedding_export"}
    assert set(fitted) == found
    for bundle in (tmp_path / "bundles").iterdir():
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
        assert metadata["version"]
        assert metadata["data_source"].startswith("SYNTHETIC") is (bundle / "models").is_dir()
    metadata = json.loads((tmp_path / "bundles" / "cxr_segmentation" / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {"synthetic_demo_test_mean_dice": 0.25}


def write_results(folder: Path) -> None:
    """What the models of a demo have left of their scores."""
    (folder / "pretraining" / "curves.csv").write_text("epoch,loss,linear_auc,knn_auc\n1,2.0,0.5,0.6\n2,1.0,,\n")
    for task, content in (
        ("classification", {"mean": {"auc": {"value": 0.75}}}),
        ("segmentation", {"mean_dice": {"value": 0.25}}),
    ):
        (folder / task / "hospital_a" / "test").mkdir(parents=True)
        (folder / task / "hospital_a" / "test" / "metrics.json").write_text(json.dumps(content))
    best = {"metric": "val_mean_dice", "score": 0.1, "round": 1}
    content = {"best": best, "validation": [{"round": 0, "mean": {"val_mean_dice": 0.2}}]}
    (folder / "federation" / "federated.json").write_text(json.dumps(content))


# Starts a process of its own, says so, and would run for a minute; what it was told it writes down.
CHILD = """
import subprocess, sys, time, pathlib
folder = pathlib.Path(sys.argv[1])
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if not (folder / "begun").exists():
    (folder / "begun").write_text(str(below.pid))
    time.sleep(60)
below.kill()
below.wait()
"""
DEMO = """
import importlib.util, pathlib, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests in the background ignores them
    signal.signal(number, signal.SIG_DFL)
sys.argv, folder = ["demo.py", "--output_dir", sys.argv[2]], pathlib.Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("demo", {path!r})
sys.modules["demo"] = demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
def commands():
    yield [sys.executable, "-c", {child!r}, str(folder)]
demo.Way.stages = lambda self: [
    demo.Stage("First", 1, lambda: iter([[sys.executable, "-c", "print('first ran')"]]), (folder,)),
    demo.Stage("Second", 1, commands, (folder,)),
]
demo.main()
"""


DEMO_OF_NOTHING = """
import importlib.util, pathlib, sys
sys.argv = ["demo.py", "--output_dir", sys.argv[2]]
spec = importlib.util.spec_from_file_location("demo", {path!r})
sys.modules["demo"] = demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
demo.Way.stages = lambda self: []
demo.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_demo_says_one_line_leaves_no_process_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    program = DEMO.format(path=str(ROOT / "demo.py"), child=CHILD)
    command = [sys.executable, "-c", program, "demo.py", str(tmp_path)]
    begun = tmp_path / "begun"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: begun.exists() and begun.read_text())
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; the same command goes on from here."
    assert "Traceback" not in said
    wait_until(lambda: not Path(f"/proc/{begun.read_text()}").exists())
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert "First: finished before" in again.stdout
    assert "Done in" in again.stdout


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.05)


def test_command_is_listed_once_however_often_it_runs(demo: ModuleType, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit):
            demo.walk(way_of(demo, tmp_path, python("pass"), python("raise SystemExit(1)")))
    assert len((tmp_path / "commands.txt").read_text().splitlines()) == 2


def test_caches_of_libraries_stay_in_the_folder(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    assert Path(demo.surroundings(tmp_path)["PYTHONPYCACHEPREFIX"]).is_relative_to(tmp_path)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    program = "import matplotlib.font_manager, torch._inductor.runtime.cache_dir_utils as c; print(c.cache_dir())"
    demo.walk(way_of(demo, tmp_path / "demo", python(program)))
    assert (tmp_path / "demo" / ".cache" / "matplotlib").is_dir()
    assert list((tmp_path / "home").iterdir()) == []


def test_temporary_files_lie_in_the_folder_and_go_with_the_demo(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(demo, "LONGEST_SCRATCH", 1000)
    others = tmp_path / "demo" / ".tmp" / "of_another_demo"
    others.mkdir(parents=True)
    leaving = python("import tempfile, pathlib; pathlib.Path('where').write_text(tempfile.mkdtemp())")
    monkeypatch.chdir(tmp_path)
    demo.walk(way_of(demo, tmp_path / "demo", leaving))
    left = Path((tmp_path / "where").read_text())
    assert left.parents[1] == others.parent
    assert list(others.parent.iterdir()) == [others]
    assert os.environ["TMPDIR"] == str(tmp_path)


def test_temporary_files_lie_elsewhere_where_a_path_is_too_long_for_a_socket(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LONGEST_SCRATCH", 10)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with demo.scratch(tmp_path / "demo"):
        place = Path(os.environ["TMPDIR"])
        assert place.stat().st_mode & 0o777 == 0o700
        assert place.parent == Path(tempfile.gettempdir())
    assert not place.exists()


@pytest.mark.parametrize("content", ["", "{"])
def test_damaged_record_is_named(demo: ModuleType, tmp_path: Path, content: str) -> None:
    (tmp_path / "finished.json").write_text(content)
    with pytest.raises(SystemExit, match=r"finished\.json is damaged; remove it"):
        demo.walk(way_of(demo, tmp_path, python("pass")))


def test_demo_that_was_begun_and_left_nothing_may_begin_again(tmp_path: Path) -> None:
    """Another directory, and a folder that holds nothing but caches; a file in the folder's place is refused."""
    (tmp_path / "demo" / ".cache").mkdir(parents=True)
    (tmp_path / "file").touch()
    done = {
        name: subprocess.run(
            [sys.executable, "-c", DEMO_OF_NOTHING.format(path=str(ROOT / "demo.py")), "demo.py", name],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )
        for name in ("demo", "file")
    }  # fmt: skip
    assert done["demo"].returncode == 0, done["demo"].stderr
    assert f"The report: {tmp_path / 'demo' / 'report.html'}" in done["demo"].stdout
    assert done["file"].stderr == f"{tmp_path / 'file'} is a file; name a folder.\n"


def test_old_verdict_does_not_hide_a_failure(demo: ModuleType, tmp_path: Path) -> None:
    verdict = tmp_path / "audit.json"
    verdict.touch()
    with pytest.raises(SystemExit, match="Repeat"):
        demo.walk(way_of(demo, tmp_path, python("raise SystemExit(1)"), leaves=(verdict,), is_verdict=True))
