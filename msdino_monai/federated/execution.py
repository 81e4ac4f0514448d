"""Running a job on this machine, simulated or in processes of its own, and telling how it goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msdino_monai.federated.ledger import Ledger
from msdino_monai.federated.plan import Plan
from msdino_monai.federated.progress import print_round


@contextmanager
def orderly_end() -> Iterator[None]:
    """Make SIGTERM an exit like any other, so that the processes of a run end with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hears of signals in the main thread only
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the tidying up
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def simulator(plan: Plan, job: Path, work: Path, environment: Mapping[str, str]) -> Iterator[Callable[[], bool]]:
    """FLARE's simulator: a process for the server, one for each site."""
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job), "-w", str(work / "sim")]
    command += ["-c", ",".join(plan.sites), "-t", str(len(plan.sites))]
    with (work / "simulator.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield lambda: process.poll() is None
        finally:
            _end_tree(process)


@contextmanager
def processes(plan: Plan, job: Path, work: Path, environment: Mapping[str, str]) -> Iterator[Callable[[], bool]]:
    """Server and sites as they run in production, and an administrator who submits the job."""
    from msdino_monai.federated.poc import Processes, free_port, provision, session

    kits = provision(work / "poc", plan.sites, free_port())
    started = Processes(kits, work / "logs", environment)
    try:
        started.start_server()
        for name in plan.sites:
            started.start_site(name)
        with session(started, len(plan.sites)) as opened:
            identity = opened.submit_job(str(job))

            def alive() -> bool:
                started.check()
                return not str(opened.get_job_meta(identity).get("status", "")).startswith("FINISHED")

            yield alive
    finally:
        started.stop()


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    import psutil

    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=5)
    process.wait()


def follow(ledger: Ledger, alive: Callable[[], bool], started: float) -> None:
    """Tell every finished round until the job has ended."""
    shown: int | None = None
    running = True
    while running:
        running = alive()
        report = ledger.read_report()
        if report.get("started", 0) >= started:
            if shown is None:
                shown = int(report["resumed_after"])
            for entry in report["history"]:
                if entry["round"] > shown:
                    print_round(entry, report, time.time() - float(report["started"]))
                    shown = int(entry["round"])
            if report["complete"] or report["stopped"]:
                _let_end(alive)
                return
        time.sleep(0.3 if running else 0)


def _let_end(alive: Callable[[], bool], patience: float = 60.0) -> None:
    """The results are written; FLARE may still tidy up."""
    deadline = time.monotonic() + patience
    while alive() and time.monotonic() < deadline:
        time.sleep(0.3)


def threads(sites: int) -> dict[str, str]:
    """So many sites on one machine share its cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // sites))}


def reason(report: Mapping[str, Any], work: Path, started: float) -> str:
    """Why a job failed, in one line: what the server said, or else the first error in FLARE's logs."""
    recent = report.get("started", 0) >= started and report.get("stopped")
    if recent and not report["aborted"]:
        return str(report["stopped"])
    for log in sorted(work.rglob("*.log")) + sorted(work.rglob("log.txt")):
        if log.stat().st_mtime < started:
            continue
        for line in log.read_text(errors="replace").splitlines():
            found = re.search(r" - ERROR - (?!Traceback)(.*)|^((?:\w+\.)*\w+(?:Error|Exception): .*)", line)
            if found:
                return f"FLARE failed: {(found[1] or found[2]).strip()[:400]}."
    return str(report["stopped"]) if recent else "FLARE ended without a result."
