"""What FLARE runs at a site: receive the global tensors, validate and train, send what changed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from msdino_monai.federated.error import ShareableError
from msdino_monai.federated.memory import peak_memory_bytes
from msdino_monai.federated.plan import BUNDLE_FOLDER, Plan, read_plan
from msdino_monai.federated.selection import check_tensors, check_weights
from msdino_monai.federated.site import Site
from msdino_monai.federated.transport import minus, pack, plus, unpack, zeros
from msdino_monai.federated.workplace import (
    build_site,
    data_folder,
    keep_errors_here,
    plays_all_sites,
    said_to_others,
    site_folder,
    site_settings,
)
from msdino_monai.vault.atomic import make_folder, remove_files, write_file

_log = logging.getLogger(__name__)


class Member:
    """One site between FLARE and its bundle.

    It holds what the server believes it holds, and what rounding has kept back from the server so far. The latter lies
    on disk, one file for each of the last rounds, so that a repeated round sends the same.
    """

    def __init__(self, plan: Plan, name: str, bundle: Path, folder: Path) -> None:
        self.plan, self.name, self.bundle, self.folder = plan, name, bundle, folder
        self._site: Site | None = None
        self._spoilt = False
        self._held: dict[str, torch.Tensor] | None = None
        self._held_round = 0

    def answer(self, content: bytes, request: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """The tensors and the report for one round; what fails is a line in the report, and the site stays."""
        try:
            return self._answer(content, request)
        except Exception as error:
            self._spoilt = True
            _log.exception("Round %s failed at %s.", request.get("round"), self.name)
            return b"", {"error": said_to_others(error), "held": self._held_round, "round": request.get("round")}

    def close(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            site.finish()

    def _answer(self, content: bytes, request: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        started = time.perf_counter()
        round_number, transport = int(request["round"]), self.plan.transport
        if self._spoilt:
            self.close()  # a trainer that has raised does nothing at its next run
        site = self._site = self._site or self._ready()
        self._spoilt = False
        if round_number == 1:
            self._remove_residuals()  # of a federation that has been here before
        held = self._receive(site, content, request)
        metrics = site.validate(held)
        report = {
            "round": round_number,
            "held": self._held_round,
            "validation_images": site.validation_images,
            "metrics": metrics,
        }
        data = b""
        if request["work"] == "train":
            trained = site.train(held, round_number)
            if transport == "fp32":
                data, _ = pack(trained, transport)
            else:
                wanted = plus(minus(trained, held), self._kept_back(round_number, held))
                check_weights(wanted, held)  # what is kept back would spoil the next round too
                data, sent = pack(wanted, transport)
                self._keep_back(round_number + 1, minus(wanted, sent))
        return data, {
            **report,
            "images": site.images,  # after training, which finds the files that cannot be used
            "seconds": time.perf_counter() - started,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _ready(self) -> Site:
        settings = {
            **self.plan.settings,
            "rounds": self.plan.rounds,
            "local_epochs": self.plan.local_epochs,
            "trainable_pattern": self.plan.trainable,
            **site_settings(),
        }
        make_folder(self.folder)
        data = data_folder(self.name)
        if "datalist" not in settings and not (data / "datalist.json").is_file():
            raise ShareableError("this site has no datalist.json; put it into the folder of its data.")
        site = build_site(self.bundle, data, self.folder, settings)
        if site.images < 1:
            raise ShareableError("this site has no training images; correct its datalist.json.")
        if (base := site.base()) != self.plan.base:
            raise ShareableError(
                f"the frozen base here is another one ({base[:12]}, not {self.plan.base[:12]}); "
                "give every site the same checkpoint and settings."
            )
        ours, theirs = (json.loads(json.dumps(each)) for each in (site.agreement, self.plan.agreement))
        if ours != theirs:
            _log.error("This site's data means %s, the job's %s.", ours, theirs)  # ours may not leave the site
            names = ", ".join(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
            raise ShareableError(
                f"this site's data means something else: it differs in {names}; correct its datalist.json."
            )
        return site

    def _receive(self, site: Site, content: bytes, request: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What the server now believes this site holds."""
        own = site.tensors()
        if request["content"] == "full":
            held = unpack(content, "fp32")
        else:
            update = unpack(content, self.plan.transport)
            before = self._held if self._held is not None else zeros(own)
            if request["base"] != self._held_round:
                raise ShareableError(
                    f"this site holds round {self._held_round}, not {request['base']}; it is sent all next."
                )
            check_tensors(update, own)
            held = plus(before, update)
        check_tensors(held, own)
        self._held, self._held_round = held, int(request["round"])
        return held

    def _kept_back(self, round_number: int, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        path = self._residual(round_number)
        if not path.exists():
            return zeros(like)
        kept = safetensors.torch.load(path.read_bytes())
        check_tensors(kept, like)
        return kept

    def _keep_back(self, round_number: int, residual: Mapping[str, torch.Tensor]) -> None:
        write_file(self._residual(round_number), safetensors.torch.save(dict(residual)), private=True)
        self._remove_residuals(round_number - 1, round_number)

    def _remove_residuals(self, *spared: int) -> None:
        kept = {self._residual(number) for number in spared}
        remove_files([path for path in self.folder.glob("residual_*.safetensors") if path not in kept])

    def _residual(self, round_number: int) -> Path:
        return self.folder / f"residual_{round_number:05d}.safetensors"


def run(custom: Path) -> None:
    """Serve a job to its end; `custom` is the job's folder of plan and bundle."""
    import nvflare.client as flare
    from nvflare.app_common.abstract.fl_model import FLModel

    from msdino_monai.federated.traffic import counters

    if not plays_all_sites():
        keep_errors_here()
    flare.init()
    plan, name = read_plan(custom), str(flare.get_site_name())
    folder = site_folder(name, custom.parents[2]) / "training" / plan.digest()[:16]  # a site may join many federations
    member = Member(plan, name, custom / BUNDLE_FOLDER, folder)
    try:
        while flare.is_running():
            message = flare.receive()
            if message is None:
                break
            request = message.meta["msdino"]
            data, report = member.answer(bytes(message.params["tensors"]), request)
            report["received"] = sum(counter.received() for counter in counters)
            params = {"tensors": np.frombuffer(data, dtype=np.uint8)}
            flare.send(FLModel(params=params, meta={"msdino": report}))
    finally:
        member.close()
