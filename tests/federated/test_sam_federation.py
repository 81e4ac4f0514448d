from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("nvflare", reason="needs NVIDIA FLARE")

from federation_runs import federate, report
from sam_sites import SITES, VOLUMES, write_sites

from msdino_monai.federated.aggregation import flap
from msdino_monai.federated.plan import INITIAL_FILE
from msdino_monai.networks.lora import load_adapter, trained_tensors
from msdino_monai.networks.sam import SamSegmenter

BUNDLE = Path(__file__).parents[2] / "bundles" / "sam_federated_segmentation"
ROUNDS = 3
SETTINGS = "size=tiny,image_size=32,rank=4,stacks_per_volume=8,foreground=1.0,learning_rate=0.01"

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three hospitals train the adapters of a tiny SAM on random weights."""
    folder = tmp_path_factory.mktemp("sam_federation")
    sites = write_sites(folder / "sites")
    done = federate(BUNDLE, sites, folder / "out", rounds=ROUNDS, keep_updates="true", set=SETTINGS)
    return folder / "out", done


def updates(output: Path, number: int) -> tuple[Tensors, dict[str, Tensors]]:
    """What a round was aggregated to, and what each site had sent."""
    folder = output / "updates" / f"round_{number:05d}"
    saved = {path.stem: safetensors.torch.load_file(path) for path in folder.iterdir()}
    return saved.pop("aggregated"), saved


def initial(output: Path) -> Tensors:
    (path,) = (output / "flare" / "job").rglob(INITIAL_FILE)
    return safetensors.torch.load_file(path)


def network() -> SamSegmenter:
    return SamSegmenter(3, 32, size="tiny", rank=4)


def test_every_site_is_aggregated_in_every_round(run: Run) -> None:
    output, done = run
    assert done.returncode == 0, done.stderr
    told = report(output)
    assert told["strategy"] == "flap"
    assert [(entry["aggregated"], entry["of"]) for entry in told["history"]] == [(3, 3)] * ROUNDS


def test_dice_of_the_global_model_rises(run: Run) -> None:
    means = [entry["mean"]["val_mean_dice"] for entry in report(run[0])["validation"]]
    assert len(means) == ROUNDS + 1
    assert means[-1] > means[0] + 0.1, means


def test_global_adapters_are_those_aggregated_by_hand_from_what_the_sites_sent(run: Run) -> None:
    output, _ = run
    previous = initial(output)
    for number in range(1, ROUNDS + 1):
        aggregated, sent = updates(output, number)
        by_hand = flap([sent[name] for name in SITES], VOLUMES, previous)
        assert aggregated.keys() == by_hand.keys() == previous.keys()
        for name, tensor in aggregated.items():
            if name.endswith(".lora_a"):
                partner = name.removesuffix("a") + "b"
                products = [each[partner] @ each[name] for each in (aggregated, by_hand)]
                dense = sum(
                    share / sum(VOLUMES) * sent[site][partner] @ sent[site][name]
                    for site, share in zip(SITES, VOLUMES, strict=True)
                )
                torch.testing.assert_close(*products, rtol=1e-4, atol=1e-6)
                best = torch.linalg.svdvals(dense)[4:].square().sum().sqrt()  # no rank 4 comes nearer
                torch.testing.assert_close((products[0] - dense).norm(), best, rtol=1e-3, atol=1e-5)
            elif not name.endswith(".lora_b"):
                torch.testing.assert_close(tensor, by_hand[name], rtol=1e-6, atol=1e-7)
        previous = aggregated


def test_every_trained_tensor_has_left_its_start(run: Run) -> None:
    output, _ = run
    start, (final, _) = initial(output), updates(output, ROUNDS)
    assert start.keys() == trained_tensors(network()).keys()
    assert not [name for name, tensor in final.items() if torch.equal(tensor, start[name])]


def test_adapters_alone_travel_and_the_result_fits_the_same_base(run: Run) -> None:
    output, _ = run
    trained = sum(tensor.numel() for tensor in trained_tensors(network()).values())
    rows = [row for row in report(output, "traffic.json")["rows"] if row["tensor_bytes"]]
    assert len(rows) == len(SITES) * (2 * ROUNDS + 1)
    assert {row["tensor_bytes"] for row in rows} == {4 * trained}
    best = safetensors.torch.load_file(output / "global" / "tensors.safetensors")
    base = network()
    load_adapter(output / "global" / "adapter.safetensors", base)
    assert all(torch.equal(tensor, best[name]) for name, tensor in trained_tensors(base).items())
