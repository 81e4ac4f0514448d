from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from msdino_monai.federated.execution import orderly_end, simulator
from msdino_monai.federated.plan import Plan


def test_sigterm_ends_the_processes_of_a_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    started: list[psutil.Process] = []
    plan = Plan("small", "small_bundle", ("a",), rounds=1)
    others = set(psutil.Process().children())  # of earlier tests, such as multiprocessing's resource tracker

    def run() -> None:
        with orderly_end(), simulator(plan, tmp_path / "job", tmp_path, {}) as alive:
            started.extend(set(psutil.Process().children()) - others)
            assert alive()
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")

    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert started
    assert not any(process.is_running() for process in started)
    assert signal.getsignal(signal.SIGTERM) is before


def test_thread_that_hears_no_signals_runs_all_the_same() -> None:
    seen: list[object] = []

    def work() -> None:
        with orderly_end():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
