"""The server's side: send, wait, check every answer, aggregate, keep the best, and write every round down."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from nvflare.apis.fl_constant import ReturnCode
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController

from msdino_monai.errors import UserError
from msdino_monai.federated import traffic
from msdino_monai.federated.aggregation import STRATEGIES
from msdino_monai.federated.answer import Answer, mean_metrics, read_answer
from msdino_monai.federated.ledger import BEST_FILE, REPORT_FILE, TRAFFIC_FILE, Ledger
from msdino_monai.federated.plan import INITIAL_FILE, Plan, read_plan
from msdino_monai.federated.selection import check_tensors
from msdino_monai.federated.transport import minus, pack, plus, tensor_bytes, zeros
from msdino_monai.federated.workplace import said, server_folder
from msdino_monai.vault.atomic import Lock, make_folder, read_file

_log = logging.getLogger(__name__)
_STARTING = 600.0  # seconds a site may take until its first sign of life: it imports, and others do too
Tensors = dict[str, torch.Tensor]


class FederationController(ModelController):
    """Runs the rounds of a plan that came with the job.

    In every round each site validates the global tensors it is sent, then trains from them. So the metrics of a round's
    result come with the answers of the next, and the last result is sent once more to be validated only.
    """

    def __init__(self) -> None:
        super().__init__(persistor_id="", ignore_result_error=True, task_check_period=0.05)
        self._answers: dict[str, FLModel | str] = {}
        self._outstanding: dict[str, int] = {}
        self._holding: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._arrived = threading.Condition()

    def run(self) -> None:
        """FLARE calls this once the job runs on the server; what it raises would be a traceback in a log."""
        try:
            self._run()
        except UserError as error:
            self.panic(said(error))

    def _run(self) -> None:
        workspace = self.engine.get_workspace()
        custom = Path(workspace.get_app_custom_dir(self.fl_ctx.get_job_id()))
        self.plan: Plan = read_plan(custom)
        self.ledger = Ledger(server_folder(self.plan.name, Path(workspace.get_root_dir())), self.plan)
        self._counter = traffic.counters[-1]
        self.report: dict[str, Any] = {
            "name": self.plan.name,
            "bundle": self.plan.bundle,
            "sites": list(self.plan.sites),
            "rounds": self.plan.rounds,
            "strategy": self.plan.strategy,
            "transport": self.plan.transport,
            "key_metric": self.plan.key_metric,
            "history": [],
            "best": None,
            "traffic": [],
            "stopped": None,
            "aborted": False,
            "complete": False,
        }
        make_folder(self.ledger.folder)
        busy = f"{self.ledger.folder} is in use by another server; wait until its job ends, or abort it."
        with Lock(self.ledger.folder / ".server.lock", busy=busy):
            try:
                self._federate(safetensors.torch.load(read_file(custom / INITIAL_FILE)))
            except Exception as error:
                self.report["stopped"] = said(error)
                self.ledger.write_report(self.report)
                raise
            finally:
                self._copy_results(Path(workspace.get_run_dir(self.fl_ctx.get_job_id())))

    def _federate(self, initial: Tensors) -> None:
        self.tensors, self.held, done = initial, zeros(initial), 0
        if (found := self.ledger.newest()) is not None:
            done, self.tensors, self.held, report = found
            self.report = {**self.report, **report, "stopped": None, "aborted": False, "complete": False}
            self.report["traffic"] = max(report["traffic"], self.ledger.read_report().get("traffic", []), key=len)
            self._holding = dict.fromkeys(self.plan.sites, -1)  # new processes hold nothing
            if not report["history"] or report["history"][-1]["round"] != done:
                raise UserError(f"the state in {self.ledger.folder} contradicts itself; remove its state folder.")
        self.report["started"] = time.time()
        self.report["resumed_after"] = done
        self.ledger.write_report(self.report)
        for number in range(done + 1, self.plan.rounds + 1):
            self._round(number)
        answers = self._exchange(self.plan.rounds + 1, "validate")
        self._judge(self.plan.rounds, answers)
        if self.report["best"] is None:
            self._keep(self.plan.rounds, None)
        self.report["complete"] = True
        self._write_reports()

    def _round(self, number: int) -> None:
        started = time.perf_counter()
        answers = self._exchange(number, "train")
        good = {name: answer for name, answer in answers.items() if answer.tensors is not None}
        entry: dict[str, Any] = {
            "round": number,
            "aggregated": len(good),
            "of": len(self.plan.sites),
            "sites": {name: answer.row() for name, answer in answers.items()},
        }
        if len(good) < self.plan.min_sites:
            reasons = "; ".join(f"{name}: {answer.error}" for name, answer in answers.items() if answer.error)
            raise UserError(
                f"round {number}: {len(good)} of {len(self.plan.sites)} sites answered well, {self.plan.min_sites} are "
                f"needed ({reasons}); mend the sites and run the same command to go on from here."
            )
        if self.plan.keep_updates:
            for name, answer in good.items():
                self.ledger.write_update(number, name, answer.tensors or {})
        strategy = STRATEGIES[self.plan.strategy]
        merged = strategy(
            [answer.tensors or {} for answer in good.values()],
            [answer.images for answer in good.values()],
            self.tensors,
        )
        check_tensors(merged, self.tensors)
        self._judge(number - 1, answers)
        self.tensors = merged
        if self.plan.keep_updates:
            self.ledger.write_update(number, "aggregated", merged)
        entry["seconds"] = time.perf_counter() - started
        slowest = max((answer.seconds for answer in good.values()), default=0.0)
        entry["overhead_seconds"] = entry["seconds"] - slowest
        self.report["history"].append(entry)
        self.ledger.write_round(number, self.tensors, self.held, self.report)
        self._write_reports()
        self.info(f"Round {number}/{self.plan.rounds}: {len(good)} of {len(self.plan.sites)} sites aggregated.")

    def _exchange(self, number: int, work: str) -> dict[str, Answer]:
        """Send the global tensors to every site that listens; their answers, or why there is none."""
        addressed = [name for name in self.plan.sites if name not in self._outstanding]
        update, before = self._next_update(), self._counter_state()
        in_step = {
            name: self._holding.get(name, 0) == number - 1 and self.plan.transport != "fp32" for name in addressed
        }
        full: bytes | None = None
        sizes: dict[str, int] = {}
        with self._arrived:
            self._answers, self._waiting = {}, set(addressed)  # before anybody can answer
        for name in addressed:
            if in_step[name]:
                data = update
            else:
                full = full if full is not None else pack(self.held, "fp32")[0]
                data = full
            sizes[name] = tensor_bytes(data)
            request = {
                "round": number,
                "work": work,
                "content": "update" if in_step[name] else "full",
                "base": number - 1,
            }
            self._outstanding[name] = number
            self.send_model(
                task_name="train",
                data=FLModel(
                    params={"tensors": np.frombuffer(data, dtype=np.uint8)},
                    meta={"msdino": request},
                    current_round=number,
                ),
                targets=[name],
                callback=self._receive,
            )
        self._wait(addressed)
        answers = self._read_answers(number, work, addressed)
        self._account(number, answers, sizes, before)
        return answers

    def _next_update(self) -> bytes:
        """What brings the sites from what they hold to the global tensors; rounding is made good in the next one."""
        if self.plan.transport == "fp32":
            self.held = dict(self.tensors)
            return b""
        data, sent = pack(minus(self.tensors, self.held), self.plan.transport)
        self.held = plus(self.held, sent)
        return data

    def _receive(self, answer: FLModel) -> None:
        """FLARE calls this in a thread of its own for every answer."""
        name = str(answer.meta["client_name"])
        with self._arrived:
            expected = self._outstanding.pop(name, None)
            if expected is not None and name in self._waiting:
                self._answers[name] = answer
            else:
                self._holding[name] = -1
                self.warning(f"{name} answered too late; it takes part again in the next round.")
            self._arrived.notify_all()

    def _accept_train_result(self, client_name: str, result: Any, fl_ctx: Any, is_unknown_task: bool = False) -> bool:
        """FLARE only logs a site whose script has died; here it becomes that site's answer."""
        code = result.get_return_code()
        if code and code != ReturnCode.OK and not is_unknown_task:
            with self._arrived:
                self._outstanding.pop(client_name, None)
                if client_name in self._waiting:
                    self._answers[client_name] = f"FLARE says {code}; see the log of its client"
                self._arrived.notify_all()
            return False
        return bool(super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task))

    def _wait(self, addressed: list[str]) -> None:
        """Until every site has answered or is given up."""
        started = time.monotonic()
        while True:
            with self._arrived:
                missing = [name for name in addressed if name not in self._answers]
                if not missing:
                    break
                self._arrived.wait(0.2)
            if self.abort_signal.triggered:
                self.report["aborted"] = True
                raise UserError("FLARE aborted the job; run the same command to go on from the last finished round.")
            now = time.monotonic()
            for name in missing:
                reason = self._given_up(name, started, now)
                if reason:
                    with self._arrived:
                        self._answers.setdefault(name, reason)
        with self._arrived:
            self._waiting = set()

    def _given_up(self, name: str, started: float, now: float) -> str:
        heard = self._counter.heard(name)
        if self.plan.round_timeout and now - started > self.plan.round_timeout:
            return f"no answer within {self.plan.round_timeout:.0f} s"
        patience = self.plan.silent_after if heard is not None else max(_STARTING, self.plan.silent_after)
        if now - max(heard or started, started) > patience:
            return f"not heard of for {patience:.0f} s; its process has died or its line is cut"
        return ""

    def _read_answers(self, number: int, work: str, addressed: list[str]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for name in self.plan.sites:
            if name not in addressed:
                answers[name] = Answer(error=f"still busy with round {self._outstanding.get(name, number - 1)}")
                continue
            said_by = self._answers[name]
            if isinstance(said_by, str):
                answers[name] = Answer(error=said_by)
            else:
                answers[name] = read_answer(said_by, number, work, self.plan.transport, self.tensors, self.held)
            self._holding[name] = number if answers[name].held == number else -1
            if answers[name].error:
                self.warning(f"Round {number}: {name} is left out: {answers[name].error}")
        return answers

    def _judge(self, number: int, answers: Mapping[str, Answer]) -> None:
        """Metrics of the global tensors after round `number`, just validated by the sites; keep them if the best."""
        metrics = {name: answer.metrics for name, answer in answers.items() if answer.metrics}
        mean = mean_metrics(answers)
        entry = {"round": number, "sites": metrics, "mean": mean}
        self.report.setdefault("validation", [])
        self.report["validation"] = [each for each in self.report["validation"] if each["round"] != number] + [entry]
        score, best = mean.get(self.plan.key_metric), self.report["best"]
        if sum(answer.error is None for answer in answers.values()) < self.plan.min_sites:
            return  # the mean of a few easy sites is no measure
        if number > 0 and score is not None and (best is None or score > best["score"]):
            self._keep(number, score)

    def _keep(self, number: int, score: float | None) -> None:
        self.report["best"] = {"round": number, "score": score, "metric": self.plan.key_metric}
        self.ledger.write_best(self.tensors, number)

    def _counter_state(self) -> dict[str, int]:
        return {name: self._counter.received(name) for name in self.plan.sites}

    def _account(
        self, number: int, answers: Mapping[str, Answer], sizes: Mapping[str, int], before: Mapping[str, int]
    ) -> None:
        rows = self.report["traffic"]
        for name, answer in answers.items():
            already = self._received.get(name, 0)
            self._received[name] = max(already, answer.received)
            if name in sizes:
                rows.append(traffic.row(number, name, "to_site", sizes[name], self._received[name] - already))
            wire = self._counter.received(name) - before[name]
            rows.append(traffic.row(number, name, "to_server", answer.tensor_bytes, wire))

    def _write_reports(self) -> None:
        if self.report["best"] is not None:
            self.ledger.deliver_best(self.report["best"]["round"])
        self.ledger.write_report(self.report)
        rows = self.report["traffic"]
        self.ledger.write_report({"rows": rows, "summary": traffic.summary(rows)}, TRAFFIC_FILE)

    def _copy_results(self, run_folder: Path) -> None:
        """Beside the job's own files too, where FLARE's `download_job` finds them."""
        if run_folder.is_dir():
            for name in (REPORT_FILE, TRAFFIC_FILE, BEST_FILE):
                if (self.ledger.folder / name).exists():
                    shutil.copy(self.ledger.folder / name, run_folder / name)
