from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest
import torch

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from federation_runs import command, environment, federate, report, wait_until
from loopback import Federation


def test_killed_federation_goes_on_to_the_end_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, monkeypatch, {"hospital_a": 24, "hospital_b": 32})
    output = tmp_path / "killed"
    flags = {"rounds": 4, "transport": "int8", "strategy": "flap", "name": "small"}
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(
            command(federation.bundle, federation.data, output, **flags), stdout=log, stderr=log, env=environment()
        )
        wait_until(lambda: (output / "state" / "round_00001.safetensors").exists() or first.poll() is not None)
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        family = [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]
        for each in family:
            each.kill()
        first.wait()
    psutil.wait_procs(family, timeout=20)
    stopped = report(output)
    assert not stopped["complete"]
    second = federate(federation.bundle, federation.data, output, **flags)
    assert second.returncode == 0, second.stderr
    assert f"Going on after round {report(output)['resumed_after']} of 4" in second.stdout
    assert report(output)["resumed_after"] >= 1
    assert [entry["round"] for entry in report(output)["history"]] == [1, 2, 3, 4]
    whole = federation.run(federation.plan(rounds=4, transport="int8"), "whole", monkeypatch=monkeypatch)
    result = torch.load(output / "global" / "model.pt", weights_only=True)
    best = whole.ledger.read_best()
    assert report(output)["best"] == report(tmp_path / "whole")["best"]
    for name, tensor in best.items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-5, atol=1e-4)
