"""The real controller and the real sites in one process, with FLARE's transport between them left out."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
from nvflare.app_common.abstract.fl_model import FLModel
from small_bundle import SITES, write_bundle, write_sites

from msdino_monai.federated import traffic
from msdino_monai.federated.client import Member
from msdino_monai.federated.controller import FederationController
from msdino_monai.federated.ledger import Ledger
from msdino_monai.federated.plan import INITIAL_FILE, Plan
from msdino_monai.federated.workplace import build_site

_ONE_AT_A_TIME = threading.Lock()  # sites in one process share torch's random state


class Loopback(FederationController):
    """Hands every task to a `Member` in a thread, as FLARE would over the network."""

    def __init__(self, members: dict[str, Member], custom: Path, folder: Path) -> None:
        super().__init__()
        self.members, self.panicked, self.warned = members, "", []
        self.abort_signal = SimpleNamespace(triggered=False)
        self.fl_ctx = SimpleNamespace(get_job_id=lambda: "job")
        workspace = SimpleNamespace(
            get_app_custom_dir=lambda _: str(custom),
            get_root_dir=lambda: str(folder),
            get_run_dir=lambda _: str(custom),
        )
        self.engine = SimpleNamespace(get_workspace=lambda: workspace)
        self.silent: set[str] = set()

    def send_model(self, *, data: FLModel, targets: list[str], callback: Any, **_: Any) -> None:
        threading.Thread(target=self._serve, args=(targets[0], data, callback), daemon=True).start()

    def _serve(self, name: str, message: FLModel, callback: Any) -> None:
        content = bytes(message.params["tensors"])
        with _ONE_AT_A_TIME:
            data, report = self.members[name].answer(content, message.meta["msdino"])
        if name in self.silent:
            return
        report["received"] = len(content)
        callback(FLModel(params={"tensors": data}, meta={"msdino": report, "client_name": name}))

    def panic(self, reason: str) -> None:
        self.panicked = reason

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warned.append(message)


class Federation:
    """Everything a test needs to federate the small bundle as often as it likes."""

    def __init__(self, folder: Path, monkeypatch: Any, sizes: dict[str, int] | None = None) -> None:
        self.folder, self.sites = folder, tuple(sizes or SITES)
        self.bundle, self.data = write_bundle(folder), write_sites(folder / "sites", sizes)
        monkeypatch.setenv("MSDINO_SITES_DIR", str(self.data))

    def plan(self, **given: Any) -> Plan:
        settings = {
            "rounds": 3,
            "min_sites": 2,
            "strategy": "flap",
            "silent_after": 30.0,
            "keep_updates": True,
            **given,
        }
        draft = Plan(name="small", bundle="small_bundle", sites=self.sites, key_metric="accuracy", **settings)
        site = self.site(draft)
        self.initial = site.tensors()
        return Plan(**{**vars(draft), "base": site.base(), "agreement": site.agreement})

    def site(self, plan: Plan) -> Any:
        settings = {**plan.settings, "rounds": plan.rounds, "local_epochs": plan.local_epochs}
        settings["trainable_pattern"] = plan.trainable
        return build_site(self.bundle, self.data / self.sites[0], self.folder / "coordinator", settings)

    def run(self, plan: Plan, output: str = "out", silent: tuple[str, ...] = (), monkeypatch: Any = None) -> Loopback:
        folder = self.folder / output
        custom = self.folder / f"custom_{time.monotonic_ns()}"
        custom.mkdir()
        plan.write(custom)
        safetensors.torch.save_file(self.initial, custom / INITIAL_FILE)
        monkeypatch.setenv("MSDINO_FEDERATION_DIR", str(folder))
        members = {name: Member(plan, name, self.bundle, folder / "sites" / name / "training") for name in self.sites}
        loopback = Loopback(members, custom, folder)
        loopback.silent = set(silent)
        counter = traffic.WireCounter()
        traffic.counters.append(counter)
        for name in self.sites:
            counter._heard[name] = 0.0
        try:
            loopback.run()
        finally:
            traffic.counters.remove(counter)
        loopback.ledger = Ledger(folder, plan)
        return loopback
