"""Running what a user types, several at a time, and what it costs."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from measuring import write_json

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
MAKES_ROWS = [Path(__file__).with_name(name) for name in ("commands.py", "seeded.py", "ways.py")]
Command = list[str]
Row = TypeVar("Row")
FINE = (0, 3)  # finished; finished, and some files were set aside


@dataclass(frozen=True)
class Cost:
    """Of a command with all the processes it started.

    resumed: it went on with what an earlier one had begun. code: a digest of what it ran, where somebody asks later.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    resumed: bool = False
    code: str | None = None

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_mb, other.peak_mb),
            self.resumed or other.resumed,
        )


def once(place: Path, work: Callable[[Path], Cost], anew: Sequence[Path] = ()) -> Cost:
    """Do `work` in a folder; its cost is kept beside what it made, and it is not done again.

    What an earlier attempt left is gone on with, but for the folders `anew`, which are removed first.
    """
    done = place / "cost.json"
    if not done.exists():
        for folder in anew:
            shutil.rmtree(folder, ignore_errors=True)
        begun = place.exists()
        place.mkdir(parents=True, exist_ok=True)
        cost = work(place)
        write_json(done, asdict(replace(cost, resumed=cost.resumed or begun)))
    return Cost(**json.loads(done.read_text(encoding="utf-8")))


def code_of(bundles: Iterable[str], *described: Mapping[str, Any]) -> str:
    """A digest of configurations, but for what they say of themselves, of the package, the study, and these words."""
    folders = [BUNDLES / name / "configs" for name in bundles]
    configs = [file for folder in folders for file in sorted(folder.glob("*.json")) if file.name != "metadata.json"]
    files = [*configs, *sorted((BUNDLES.parent / "msdino_monai").rglob("*.py")), *MAKES_ROWS]
    total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for file in files:
        total.update(file.relative_to(BUNDLES.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def work_through(jobs: Mapping[str, Callable[[], Row]], workers: int) -> list[Row]:
    """What each named job gives, in their order; one that fails does not keep the others from being done."""
    started, failed = time.monotonic(), []
    with ThreadPoolExecutor(workers) as pool:
        asked = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for done, future in enumerate(as_completed(asked), start=1):
                if error := future.exception():
                    failed.append(f"{asked[future]}: {error}")
                minutes = (time.monotonic() - started) / 60
                print(f"{done} of {len(asked)} rows, {minutes:.0f} min: {asked[future]}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # who interrupts does not wait for what has not begun
            raise
    if failed:
        raise SystemExit("\n".join(["These rows failed; run again to repeat them.", *failed]))
    return [future.result() for future in asked]


def ours(verb: str, **settings: Any) -> Command:
    return [sys.executable, "-m", "msdino_monai", verb, *_flags(settings)]


def bundle(name: str, configs: Sequence[str | Path], **settings: Any) -> Command:
    folder = BUNDLES / name
    files = [str(folder / "configs" / f"{config}.json") for config in configs]
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(folder)]
    return [*start, "--logging_file", str(folder / "configs" / "logging.conf"), *_flags(settings)]


def seeded(command: Command, seed: int) -> Command:
    """The same with its randomness from a seed: python -m MODULE ... becomes python seeded.py SEED MODULE ..."""
    python, _, *words = command
    return [python, str(Path(__file__).with_name("seeded.py")), str(seed), *words]


def _flags(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() if value is not None for word in (f"--{name}", str(value))]


def run(command: Command, log: Path) -> Cost:
    """One command on one thread; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in FINE:
        raise RuntimeError(f"status {process.returncode}; see the end of {log}")
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)
