"""MONAI Label's server as a user starts it: on loopback, on a free port, in a folder of its own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

START_SECONDS, TASK_SECONDS, WATCH_SECONDS = 180, 240, 15
_FILES = '["*.nii.gz", "*.nii", "*.png", "*.dcm"]'


def clean_environment() -> dict[str, str]:
    """Without what a machine may have set for MONAI Label, and with a torchvision that can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MONAI", "BUNDLE_", "RANK"))}
    path = str(Path(__file__).parent / "cpu_torchvision") if not _imports_torchvision() else ""
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MONAI_LABEL_DATASTORE_FILE_EXT": _FILES}


def _imports_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401 -- only whether it can be
    except (ImportError, RuntimeError):
        return False
    return True


class LabelServer:
    """A server with some bundles; `stop` ends it and whatever it started.

    Args:
        folder: its working directory; holds `apps`, `studies` and `server.log`.
        models: names of bundles in `apps/monaibundle/model`.
    """

    def __init__(self, folder: Path, models: Sequence[str]) -> None:
        self.folder, self.models = folder, tuple(models)
        self.log = folder / "server.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def bundle(self, name: str) -> Path:
        return self.folder / "apps" / "monaibundle" / "model" / name

    def fetch_app(self) -> None:
        """The app that serves bundles; they go to `bundle(name)`."""
        command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
        copied = subprocess.run(
            [*command, "--output", "apps"],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert copied.returncode == 0, copied.stderr

    def start(self) -> None:
        (self.folder / "studies").mkdir()
        atexit.register(self.stop)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or a test run that is ended leaves it behind
        self._launch()

    def _launch(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["--app", "apps/monaibundle", "--studies", "studies", "--host", "127.0.0.1", "--port", port]
        conf = {"models": ",".join(self.models), "zoo_source": "local", "sam2": "false"}
        pairs = [part for name, value in conf.items() for part in ("--conf", name, value)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "monailabel.main", "start_server", *map(str, arguments), *pairs],
                cwd=self.folder,
                env=clean_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the server ended:\n{self.tail()}"
            try:
                if requests.get(f"{self.url}/info/", timeout=20).ok:
                    return
            except requests.RequestException:
                time.sleep(0.3)
        raise TimeoutError(f"the server does not answer after {START_SECONDS} s:\n{self.tail()}")

    def stop(self) -> None:
        """The whole group: a training is a process of its own."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def get(self, path: str) -> Any:
        return _answer(requests.get(f"{self.url}{path}", timeout=60)).json()

    def post(self, path: str, **given: Any) -> requests.Response:
        return _answer(requests.post(f"{self.url}{path}", timeout=120, **given))

    def infer(self, model: str, file: Path, output: str, **params: Any) -> requests.Response:
        """Upload a file and have it answered, as `json` or as `image`; a DICOM series is named by its folder."""
        if file.is_dir():
            return self.post(f"/infer/{model}?image={file}&output={output}", data={"params": json.dumps(params)})
        with file.open("rb") as content:
            parts = {"file": (file.name, content), "params": (None, json.dumps(params))}
            return self.post(f"/infer/{model}?output={output}", files=parts)

    def add_image(self, file: Path) -> str:
        with file.open("rb") as content:
            answer = requests.put(
                f"{self.url}/datastore/image?image={file.stem}", files={"file": (file.name, content)}, timeout=60
            )
        return str(_answer(answer).json()["image"])

    def forget_images(self) -> None:
        """All of the data store, with their labels: a round of training takes whatever lies there."""
        for image in self._images():
            _answer(requests.delete(f"{self.url}/datastore/image?id={image}", timeout=60))
        deadline = time.monotonic() + WATCH_SECONDS
        while self._images() and time.monotonic() < deadline:  # the server learns it from the folder, a moment later
            time.sleep(0.2)
        if self._images():  # its watcher dies of "dictionary changed size during iteration" now and then
            self.stop()
            self._launch()
        assert not self._images(), f"images stay:\n{self.tail()}"

    def _images(self) -> list[str]:
        return list(self.get("/datastore/?output=all")["objects"])

    def add_label(self, image: str, name: str, content: bytes) -> None:
        place = f"{self.url}/datastore/label?image={image}&tag=final"
        _answer(requests.put(place, files={"label": (name, content)}, timeout=60))

    def train(self, model: str, **params: Any) -> dict[str, Any]:
        """One round, until it has ended; its state."""
        self.post(f"/train/{model}", json=params)
        deadline = time.monotonic() + TASK_SECONDS
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.get("/train/")
            if state["status"] not in ("SUBMITTED", "RUNNING"):
                return state
            time.sleep(0.5)
        raise TimeoutError(f"the training has not ended after {TASK_SECONDS} s:\n{self.tail()}")


def _answer(response: requests.Response) -> requests.Response:
    assert response.ok, f"{response.request.method} {response.url}: {response.status_code} {response.text[:2000]}"
    return response
