from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from federation_runs import federate, processes_in, report
from small_bundle import SITES, write_bundle, write_sites


def test_job_completes_in_processes_with_certificates_and_leaves_none_behind(tmp_path: Path) -> None:
    bundle, sites = write_bundle(tmp_path), write_sites(tmp_path / "sites")
    done = federate(bundle, sites, tmp_path / "out", rounds=2, env="poc", transport="int8", set="width=4096")
    assert done.returncode == 0, done.stderr
    told = report(tmp_path / "out")
    assert [entry["aggregated"] for entry in told["history"]] == [3, 3]
    assert told["validation"][2]["mean"]["accuracy"] > told["validation"][0]["mean"]["accuracy"]
    assert processes_in(tmp_path) == []
    kit = tmp_path / "out" / "flare" / "poc" / "federation" / "prod_00"
    assert all((kit / name / "startup" / "client.crt").exists() for name in SITES)
    rows = report(tmp_path / "out", "traffic.json")["rows"]
    answered = [row for row in rows if row["tensor_bytes"]]
    assert len(answered) == 3 * 2 + 3 * 3
    assert all(row["wire_bytes"] > row["tensor_bytes"] for row in answered)
