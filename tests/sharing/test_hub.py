"""Pushing to the Hugging Face Hub: MONAI's function and the Hub's own library, against a server of this test."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from small_bundle_parts import BUNDLES

from msdino_monai.__main__ import main

TOKEN = "hf_of_this_test"
PUSH = """
import sys
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.hub import check_hub, push
check_hub("lab/lungs")
print("pushed to", push(Bundle(sys.argv[1]), "lab/lungs"))
"""
needs_library = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")


class Hub(ThreadingHTTPServer):
    """Remembers what it is asked, and takes everything from whoever has the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str]] = []
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.reply({"id": "lab/lungs", "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self.path.partition("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.reply({"error": "Invalid username or password."}, status=401)
        elif path == "/api/repos/create":
            self.server.created = json.loads(data)
            self.reply({"url": f"{self.server.address}/lab/lungs"})
        elif path.endswith("/preupload/main"):
            files = json.loads(data)["files"]
            each = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.reply({"files": [{"path": file["path"], **each} for file in files]})
        elif path.endswith("/commit/main"):
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply({"commitUrl": f"{self.server.address}/lab/lungs/commit/0", "commitOid": "0" * 40})
        else:
            self.reply({"type": "model", "mode": "regular"})

    def reply(self, content: dict[str, Any], status: int = 200) -> None:
        self.server.asked.append((self.command, self.path.partition("?")[0]))
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """MONAI leaves its card in the folder that it pushes."""
    return Path(shutil.copytree(bundle, tmp_path / "own" / bundle.name))


def ended(command: list[str], home: Path, hub: Hub, token: str | None) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its address and its login once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
    environment = {**kept, **own, **({} if token is None else {"HF_TOKEN": token})}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@needs_library
def test_folder_of_the_package_reaches_a_private_repository_and_is_tagged(
    own_bundle: Path, hub: Hub, tmp_path: Path
) -> None:
    expected = {
        path.relative_to(own_bundle).as_posix(): path.read_bytes() for path in own_bundle.rglob("*") if path.is_file()
    }
    done = ended(["-c", PUSH, str(own_bundle)], tmp_path, hub, TOKEN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pushed to" in done.stdout
    assert f"{hub.address}/lab/lungs" in done.stdout
    assert (hub.created["organization"], hub.created["name"]) == ("lab", "lungs")
    assert hub.created.get("private") or hub.created.get("visibility") == "private", hub.created
    card = hub.files.pop("README.md").decode()
    assert card.startswith("---")
    assert hub.files == expected
    assert ("POST", "/api/models/lab/lungs/tag/main") in hub.asked


@needs_library
def test_refusal_of_the_hub_is_one_line(own_bundle: Path, hub: Hub, tmp_path: Path) -> None:
    done = ended(["-c", PUSH, str(own_bundle)], tmp_path, hub, "hf_somebody_else")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: lab/lungs was not pushed (" in last
    assert "401" in last
    assert hub.files == {}


@needs_library
def test_without_a_login_nothing_is_packed_or_asked(hub: Hub, tmp_path: Path) -> None:
    root, target = str(BUNDLES / "cxr_embedding_export"), str(tmp_path / "dist")
    command = ["-m", "msdino_monai", "pack", root, "--output_dir", target, "--push_to_hf", "lab/lungs"]
    done = ended(command, tmp_path, hub, None)
    assert (done.returncode, hub.asked) == (1, [])
    assert done.stderr == "msdino_monai pack: --push_to_hf needs your login: run `hf auth login`, or set HF_TOKEN.\n"
    assert not Path(target).exists()


@pytest.mark.parametrize("repository", ["lungs", "a/b/c", "lab/", "lab/lungs here", ""])
def test_repository_is_owner_and_name(repository: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(BUNDLES / "cxr_embedding_export")
    assert main(["pack", root, f"--push_to_hf={repository}"]) in (1, 2)
    assert "--push_to_hf" in capsys.readouterr().err
