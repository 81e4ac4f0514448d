from __future__ import annotations

from pathlib import Path

import torch

from msdino_monai.federated.ledger import Ledger
from msdino_monai.federated.plan import Plan


def test_best_tensors_are_those_the_report_names(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Plan("small", "small_bundle", ("a",), rounds=3))
    rounds = {number: {"w": torch.full((2,), float(number))} for number in (1, 2)}
    for number, tensors in rounds.items():
        ledger.write_best(tensors, number)
    assert len(list(tmp_path.glob("state/best_*"))) == 2  # until a round that says which one is on disk
    ledger.write_round(3, rounds[2], rounds[1], {"best": {"round": 1}})
    ledger.deliver_best(1)
    assert torch.equal(ledger.read_best()["w"], rounds[1]["w"])
    assert [path.name for path in tmp_path.glob("state/best_*")] == ["best_00001.safetensors"]
