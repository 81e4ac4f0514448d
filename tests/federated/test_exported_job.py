from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from federation_runs import HERE, environment, federate, processes_in
from small_bundle import SITES, write_bundle, write_sites


def test_exported_job_runs_through_the_admin_api_and_strangers_stay_outside(tmp_path: Path) -> None:
    bundle, sites = write_bundle(tmp_path), write_sites(tmp_path / "sites")
    done = federate(bundle, sites, tmp_path / "coordinator", rounds=1, export_job=tmp_path / "jobs", name="study")
    assert done.returncode == 0, done.stderr
    job = tmp_path / "jobs" / "study"
    meta = json.loads((job / "meta.json").read_text())
    assert meta["deploy_map"] == {"app_server": ["server"], **{f"app_{name}": [name] for name in SITES}}
    assert (job / "app_hospital_a" / "custom" / "bundle" / "configs" / "train.json").exists()
    assert (job / "app_server" / "custom" / "initial.safetensors").exists()
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in job.rglob("*") if path.is_file())
    run = subprocess.run(
        [sys.executable, str(HERE / "poc_by_hand.py"), str(job), str(sites), str(tmp_path / "poc")],
        capture_output=True,
        text=True,
        env={**environment(), "NVFLARE_LOG": os.devnull},
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.strip().splitlines()[-1])
    assert result["status"] == "FINISHED:COMPLETED"
    assert result["joined"] == list(SITES)
    assert "certificate" in result["stranger"].lower() or "ssl" in result["stranger"].lower()
    assert result["report"]["history"][0]["aggregated"] == 3
    assert processes_in(tmp_path) == []
