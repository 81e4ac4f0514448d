from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from loopback import Federation, Loopback
from small_bundle import SITES

from msdino_monai.federated.aggregation import fedavg, flap
from msdino_monai.federated.client import Member
from msdino_monai.federated.ledger import BEST_FILE, REPORT_FILE


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, monkeypatch)


def report(loopback: Loopback) -> dict:
    return json.loads((loopback.ledger.folder / REPORT_FILE).read_text())


def updates(loopback: Loopback, number: int) -> dict[str, dict[str, torch.Tensor]]:
    folder = loopback.ledger.folder / "updates" / f"round_{number:05d}"
    return {path.stem: safetensors.torch.load_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("strategy", ["fedavg", "flap"])
def test_every_round_aggregates_all_sites_as_done_by_hand(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    plan = federation.plan(strategy=strategy)
    done = federation.run(plan, monkeypatch=monkeypatch)
    assert done.panicked == ""
    previous = federation.initial
    for number in (1, 2, 3):
        saved = updates(done, number)
        aggregated = saved.pop("aggregated")
        assert set(saved) == set(SITES)
        sites, counts = [saved[name] for name in SITES], [24, 32, 40]
        by_hand = fedavg(sites, counts) if strategy == "fedavg" else flap(sites, counts, previous)
        for name, tensor in aggregated.items():
            torch.testing.assert_close(tensor, by_hand[name], rtol=1e-6, atol=1e-6)
        assert any(not torch.equal(aggregated[name], previous[name]) for name in previous)
        previous = aggregated
    told = report(done)
    assert [entry["aggregated"] for entry in told["history"]] == [3, 3, 3]
    means = [entry["mean"]["accuracy"] for entry in told["validation"]]
    assert len(means) == 4
    assert means[-1] > means[0]
    assert told["best"]["score"] == max(means[1:])


@pytest.mark.parametrize("transport", ["bf16", "int8"])
def test_rounded_transport_follows_the_exact_one(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    exact = federation.run(federation.plan(strategy="fedavg"), "exact", monkeypatch=monkeypatch)
    rounded = federation.run(
        federation.plan(strategy="fedavg", transport=transport), "rounded", monkeypatch=monkeypatch
    )
    pairs = [(exact.tensors[name], rounded.tensors[name]) for name in exact.tensors]
    moved = max(float((tensor - federation.initial[name]).abs().max()) for name, tensor in exact.tensors.items())
    assert 0 < max(float((one - other).abs().max()) for one, other in pairs) < 0.2 * moved
    rows = report(rounded)["traffic"]
    full = sum(tensor.numel() for tensor in federation.initial.values()) * 4
    assert {row["tensor_bytes"] for row in rows if row["tensor_bytes"]} != {full}
    assert max(row["tensor_bytes"] for row in rows) < 0.52 * full


@pytest.mark.parametrize(
    ("fault", "said"), [("nan", "head.bias is not finite"), ("shape", "head.bias is (2,), not (3,)"), ("raise", "fire")]
)
def test_bad_site_is_reported_and_the_round_goes_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    done = federation.run(federation.plan(settings={"fault": f"hospital_b:2:{fault}"}), monkeypatch=monkeypatch)
    history = report(done)["history"]
    assert [entry["aggregated"] for entry in history] == [3, 2, 3]
    assert said in history[1]["sites"]["hospital_b"]["error"]
    assert set(updates(done, 2)) == {"hospital_a", "hospital_c", "aggregated"}
    assert done.panicked == ""


def test_silent_site_is_given_up_and_the_others_finish(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    done = federation.run(federation.plan(rounds=2, silent_after=5.0), silent=("hospital_c",), monkeypatch=monkeypatch)
    history = report(done)["history"]
    assert [entry["aggregated"] for entry in history] == [2, 2]
    assert "not heard of" in history[0]["sites"]["hospital_c"]["error"]
    assert "still busy with round 1" in history[1]["sites"]["hospital_c"]["error"]


def test_too_few_sites_stop_the_federation_and_its_state_stays(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = federation.plan(min_sites=3, settings={"fault": "hospital_a:2:nan"})
    stopped = federation.run(broken, monkeypatch=monkeypatch)
    assert "round 2: 2 of 3 sites answered well, 3 are needed (hospital_a: " in stopped.panicked
    assert report(stopped)["stopped"] == stopped.panicked
    assert not report(stopped)["complete"]
    number, tensors, _, _ = stopped.ledger.newest()
    assert number == 1
    assert torch.equal(tensors["head.bias"], updates(stopped, 1)["aggregated"]["head.bias"])


@pytest.mark.parametrize("transport", ["fp32", "int8"])
def test_stopped_federation_goes_on_to_the_same_end(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    plan = federation.plan(rounds=4, transport=transport)
    whole = federation.run(plan, "whole", monkeypatch=monkeypatch)
    stopped_after = 2

    class StoppedError(Exception):
        pass

    original = Loopback._round

    def stop(self: Loopback, number: int) -> None:
        if number > stopped_after:
            raise StoppedError
        original(self, number)

    monkeypatch.setattr(Loopback, "_round", stop)
    with pytest.raises(StoppedError):
        federation.run(plan, "halves", monkeypatch=monkeypatch)
    monkeypatch.setattr(Loopback, "_round", original)
    second = federation.run(plan, "halves", monkeypatch=monkeypatch)
    told = report(second)
    assert told["resumed_after"] == 2
    assert [entry["round"] for entry in told["history"]] == [1, 2, 3, 4]
    assert all(torch.equal(whole.tensors[name], second.tensors[name]) for name in whole.tensors)
    assert told["validation"] == report(whole)["validation"]
    assert told["best"] == report(whole)["best"]


def test_state_of_other_settings_is_not_continued(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    federation.run(federation.plan(rounds=1), monkeypatch=monkeypatch)
    other = federation.run(federation.plan(rounds=2), monkeypatch=monkeypatch)
    assert "other settings" in other.panicked


@pytest.mark.parametrize(
    ("change", "said"),
    [({"base": "0" * 64}, "frozen base here is another one"), ({"agreement": {"classes": ["x"]}}, "means something")],
)
def test_sites_that_differ_from_the_plan_say_so(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, change: dict, said: str
) -> None:
    plan = federation.plan()
    done = federation.run(type(plan)(**{**vars(plan), **change}), monkeypatch=monkeypatch)
    assert said in done.panicked
    assert "0 of 3 sites" in done.panicked


def test_site_without_data_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(tmp_path, monkeypatch, {"hospital_a": 24, "hospital_b": 0, "hospital_c": 40})
    done = federation.run(federation.plan(rounds=1), monkeypatch=monkeypatch)
    entry = report(done)["history"][0]
    assert entry["aggregated"] == 2
    assert entry["sites"]["hospital_b"]["error"]


def test_best_follows_the_report_over_a_stopped_round(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"hospital_a": [0.1, 0.6, 0.7, 0.6], "hospital_b": [0.1, 0.5, 0.2, 0.3], "hospital_c": [0.1, 0.5, 0.2, 0.3]}
    original, first = Member.answer, True

    def answer(self: Member, content: bytes, request: dict) -> tuple[bytes, dict]:
        data, told = original(self, content, request)
        if first and request["round"] == 3 and self.name != "hospital_a":
            return b"", {"error": "disk full", "held": 3, "round": 3}
        return data, {**told, "metrics": {"accuracy": seen[self.name][request["round"] - 1]}}

    monkeypatch.setattr(Member, "answer", answer)
    plan = federation.plan()
    stopped = federation.run(plan, monkeypatch=monkeypatch)
    assert "round 3: 1 of 3 sites" in stopped.panicked
    assert report(stopped)["best"]["round"] == 1  # what hospital_a alone says of round 2 does not count
    rows = report(stopped)["traffic"]
    first = False
    done = federation.run(plan, monkeypatch=monkeypatch)
    assert report(done)["best"]["round"] == 1
    best, by_hand = done.ledger.read_best(), updates(done, 1)["aggregated"]
    assert all(torch.equal(best[name], tensor) for name, tensor in by_hand.items())
    with safetensors.safe_open(done.ledger.folder / BEST_FILE, "pt") as file:
        assert file.metadata()["round"] == "1"
    assert report(done)["traffic"][: len(rows)] == rows  # those of the stopped round travelled too


def test_last_result_is_not_the_best_because_an_easy_site_alone_says_so(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Member.answer

    def answer(self: Member, content: bytes, request: dict) -> tuple[bytes, dict]:
        if request["work"] == "validate" and self.name != "hospital_a":
            return b"", {"error": "disk full", "held": request["round"], "round": request["round"]}
        data, told = original(self, content, request)
        return data, {**told, "metrics": {"accuracy": 0.9 if request["work"] == "validate" else 0.5}}

    monkeypatch.setattr(Member, "answer", answer)
    done = federation.run(federation.plan(rounds=2), monkeypatch=monkeypatch)
    assert report(done)["complete"]
    assert report(done)["best"] == {"round": 1, "score": 0.5, "metric": "accuracy"}


def test_site_that_reports_another_round_is_left_out_at_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Member.answer

    def answer(self: Member, content: bytes, request: dict) -> tuple[bytes, dict]:
        data, told = original(self, content, request)
        wrong = self.name == "hospital_b" and request["round"] == 1
        return data, {**told, "round": "one"} if wrong else told

    monkeypatch.setattr(Member, "answer", answer)
    done = federation.run(federation.plan(rounds=2), monkeypatch=monkeypatch)
    assert [entry["aggregated"] for entry in report(done)["history"]] == [2, 3]
    assert report(done)["history"][0]["sites"]["hospital_b"]["error"] == "its report is of round 'one', not 1"
