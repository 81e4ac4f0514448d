"""A federation of real processes on one machine: own certificates, free ports, TLS over loopback, all stopped after."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from nvflare.fuel.flare_api.api_spec import NoConnection
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.lighter.prov_utils import prepare_builders
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner

from msdino_monai.errors import UserError

ADMIN = "admin@federation.local"
SERVER = "localhost"
_BUILDERS = [
    {"path": "nvflare.lighter.impl.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
    {
        "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
        "args": {"config_folder": "config", "scheme": "tcp"},
    },
    {"path": "nvflare.lighter.impl.cert.CertBuilder", "args": {}},
    {"path": "nvflare.lighter.impl.signature.SignatureBuilder", "args": {}},
]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def provision(folder: Path, sites: Sequence[str], port: int) -> Path:
    """Startup kits for server, sites and administrator, under a certificate authority of their own."""
    participants: list[dict[str, Any]] = [
        {
            "name": SERVER,
            "type": "server",
            "org": "federation",
            "fed_learn_port": port,
            "admin_port": port,
            "default_host": SERVER,
            "host_names": ["127.0.0.1"],
        },
        *({"name": name, "type": "client", "org": "federation"} for name in sites),
        {"name": ADMIN, "type": "admin", "org": "federation", "role": "project_admin"},
    ]
    project = {"api_version": 3, "name": "federation", "description": "", "participants": participants}
    project["builders"] = _BUILDERS
    with contextlib.redirect_stdout(sys.stderr):
        Provisioner(str(folder), prepare_builders(project)).provision(prepare_project(project))
    kits = max((folder / "federation").glob("prod_*"))
    _keep_own_jobs(kits / SERVER)
    return kits


def _keep_own_jobs(server: Path) -> None:
    """By default all FLARE servers of a machine store jobs in one folder, and take each other's."""
    local = server / "local"
    resources = (local / "resources.json.default").read_text(encoding="utf-8")
    own = json.dumps(str(server / "storage"))[1:-1]
    (local / "resources.json").write_text(resources.replace("/tmp/nvflare", own), encoding="utf-8")  # noqa: S108 (theirs)


class Processes:
    """FLARE's server and clients, as their startup kits start them but without a shell around them.

    Args:
        kits: the folder with all startup kits.
        logs: where their output goes.
        environment: added to this process's own.
    """

    def __init__(self, kits: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self.kits, self.logs = kits, logs
        self.environment = {**os.environ, **environment, "NVFLARE_ENABLE_WORKER_PORT_LISTENER": "false"}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start_server(self) -> None:
        self._start(SERVER, "server.server_train", "fed_server.json", [])

    def start_site(self, name: str) -> None:
        self._start(name, "client.client_train", "fed_client.json", [f"uid={name}"])

    def check(self) -> None:
        """Say so if a process has ended that should not have."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise UserError(
                    f"FLARE's process of {name} ended with status {process.returncode}; see {self.log(name)}."
                )

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def stop(self) -> None:
        """End every process and what they have started, however it goes."""
        family = []
        for process in self.running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                family += [*parent.children(recursive=True), parent]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(family, timeout=5)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(alive, timeout=5)
        for process in self.running.values():
            process.wait()
        self.running.clear()

    def _start(self, name: str, module: str, config: str, settings: Sequence[str]) -> None:
        kit = self.kits / name
        command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", str(kit), "-s", config]
        command += ["--set", "secure_train=true", "config_folder=config", "org=federation", *settings]
        path = os.pathsep.join([str(kit / "local" / "custom"), self.environment.get("PYTHONPATH", "")]).strip(
            os.pathsep
        )
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=kit,
                env={**self.environment, "PYTHONPATH": path},
                start_new_session=True,
            )


@contextlib.contextmanager
def session(processes: Processes, sites: int, timeout: float = 180.0) -> Iterator[Session]:
    """An administrator's session with a server that so many sites have joined."""
    deadline = time.monotonic() + timeout
    opened: Session | None = None
    while opened is None:
        processes.check()
        try:
            opened = new_secure_session(ADMIN, str(processes.kits / ADMIN), timeout=5.0)
        except NoConnection:
            if time.monotonic() > deadline:
                raise UserError(f"FLARE's server does not answer; see {processes.log(SERVER)}.") from None
    try:
        while len(joined(opened)) < sites:
            processes.check()
            if time.monotonic() > deadline:
                raise UserError(
                    f"only {', '.join(joined(opened)) or 'no site'} joined; see the logs in {processes.logs}."
                )
            time.sleep(0.5)
        yield opened
    finally:
        opened.close()


def joined(opened: Session) -> list[str]:
    """The sites the server has let in."""
    return sorted(client.name for client in opened.get_system_info().client_info)
