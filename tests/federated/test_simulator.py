from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from federation_runs import federate, report
from small_bundle import LONG, SITES, write_bundle, write_sites

from msdino_monai.federated.aggregation import flap

FAULTS = "hospital_a:2:long;hospital_c:4:die"
Run = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three sites, four rounds; one of them trains for long in the second, another one dies in the last."""
    folder = tmp_path_factory.mktemp("simulator")
    bundle, sites = write_bundle(folder), write_sites(folder / "sites")
    done = federate(
        bundle,
        sites,
        folder / "out",
        rounds=4,
        env="sim",
        strategy="flap",
        min_sites=1,
        keep_updates="true",
        silent_after=8,
        set=f"width=8192,fault={FAULTS}",
    )
    return folder / "out", done


def test_run_ends_well_although_a_site_dies(run: Run) -> None:
    output, done = run
    assert done.returncode == 0, done.stderr
    history = report(output)["history"]
    assert [entry["aggregated"] for entry in history] == [3, 3, 3, 2]
    assert "not heard of" in history[3]["sites"]["hospital_c"]["error"]
    assert "Round 4/4: 2 of 3 sites aggregated" in done.stdout
    assert "hospital_c left out: not heard of" in done.stdout


def test_site_that_trains_for_long_is_waited_for(run: Run) -> None:
    second = report(run[0])["history"][1]
    assert second["sites"]["hospital_a"]["error"] is None
    assert second["sites"]["hospital_a"]["seconds"] > LONG > 8


def test_memory_of_every_answering_site_is_written_down(run: Run) -> None:
    for name, row in report(run[0])["history"][2]["sites"].items():
        assert row["peak_memory_bytes"] > 5e7, name  # torch alone takes more


def test_aggregates_are_those_done_by_hand_on_the_saved_updates(run: Run) -> None:
    output, _ = run
    previous = None
    for number, names in [(1, SITES), (2, SITES), (3, SITES), (4, SITES[:2])]:
        folder = output / "updates" / f"round_{number:05d}"
        saved = {path.stem: safetensors.torch.load_file(path) for path in folder.iterdir()}
        aggregated = saved.pop("aggregated")
        assert sorted(saved) == sorted(names)
        counts = dict(zip(SITES, (24, 32, 40), strict=True))
        by_hand = flap([saved[name] for name in names], [counts[name] for name in names], previous)
        torch.testing.assert_close(
            aggregated["base.lora_b"] @ aggregated["base.lora_a"],
            by_hand["base.lora_b"] @ by_hand["base.lora_a"],
            rtol=1e-4,
            atol=1e-4,
        )
        torch.testing.assert_close(aggregated["head.weight"], by_hand["head.weight"], rtol=1e-6, atol=1e-6)
        if previous is not None:
            assert not torch.equal(aggregated["base.lora_b"], previous["base.lora_b"])
        previous = aggregated


def test_metric_of_the_global_model_rises(run: Run) -> None:
    means = [entry["mean"]["accuracy"] for entry in report(run[0])["validation"]]
    assert len(means) == 5
    assert max(means[1:]) > means[0] + 0.1


def test_best_model_is_written_as_the_bundle_and_others_read_it(run: Run) -> None:
    output, _ = run
    best = report(output)["best"]["round"]
    expected = safetensors.torch.load_file(output / "updates" / f"round_{best:05d}" / "aggregated.safetensors")
    model = torch.load(output / "global" / "model.pt", weights_only=True)
    assert {"base.weight", "base.lora_a"} <= set(model)
    for name, tensor in expected.items():
        assert torch.equal(model[name], tensor)
    assert torch.equal(
        safetensors.torch.load_file(output / "global" / "model.safetensors")["base.lora_a"], model["base.lora_a"]
    )


def test_only_trained_tensors_cross_the_wire_and_both_ways_are_counted(run: Run) -> None:
    output, _ = run
    rows = report(output, "traffic.json")["rows"]
    trained = 4 * (2 * 12 + 8192 * 2 + 3 * 8192 + 3)
    whole = trained + 4 * 8192 * 12
    carrying = [row for row in rows if row["tensor_bytes"]]
    assert {row["tensor_bytes"] for row in carrying} == {trained}
    assert {(row["site"], row["direction"]) for row in carrying} == {
        (name, direction) for name in SITES for direction in ("to_site", "to_server")
    }
    answered = [row for row in carrying if (row["site"], row["round"]) not in {("hospital_c", 4), ("hospital_c", 5)}]
    assert all(trained < row["wire_bytes"] < whole for row in answered)
    assert min(row["wire_bytes"] for row in answered) < 1.15 * trained  # without much waiting for others
    assert "to_server" in run[1].stdout


def test_nothing_of_the_sites_paths_is_in_the_job(run: Run) -> None:
    output, _ = run
    job = output / "flare" / "job" / "small_bundle"
    texts = [path.read_bytes() for path in job.rglob("*") if path.is_file()]
    assert texts
    assert not any(str(output.parent).encode() in text for text in texts)


def test_finished_federation_is_not_run_again(run: Run) -> None:
    output, done = run
    folder = output.parent
    before = report(output)
    again = federate(
        folder / "small_bundle",
        folder / "sites",
        output,
        rounds=4,
        strategy="flap",
        min_sites=1,
        set=f"width=8192,fault={FAULTS}",
    )
    assert again.returncode == 0, again.stderr
    assert report(output) == before
    assert "is the best" in done.stdout
