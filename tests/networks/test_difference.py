from __future__ import annotations

import torch

from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.difference import body_sizes, differences, sizes_in, state_difference

SIZES = {"embedding_dim": 12, "hidden_size": 16, "mlp_dim": 20, "num_layers": 2, "num_heads": 4, "num_registers": 3}


def state(**changes: int) -> dict[str, torch.Tensor]:
    body = ViTBody(**{**SIZES, **changes})
    return ImageEncoder(PatchEmbedding(32, 16, SIZES["embedding_dim"]), body).state_dict()


def test_sizes_are_read_off_the_weights() -> None:
    assert body_sizes(ViTBody(**SIZES)) == SIZES
    assert sizes_in(state()) == {name: size for name, size in SIZES.items() if name != "num_heads"}


def test_equal_states_do_not_differ() -> None:
    assert state_difference(state(), state(), "model.pt") == []


def test_missing_and_unexpected_tensors_are_told_apart() -> None:
    found = state()
    del found["body.norm.bias"]
    found["body.norm.extra"] = torch.zeros(1)
    assert state_difference(state(), found, "model.pt") == [
        "body.norm.bias: missing in model.pt",
        "body.norm.extra: in model.pt only",
    ]


def test_sizes_come_before_tensors() -> None:
    assert state_difference(state(), state(num_registers=5), "model.pt") == [
        "num_registers: 5 in model.pt, 3 here",
        "body.registers: (1, 5, 16) in model.pt, (1, 3, 16) here",
    ]


def test_many_tensors_are_counted_not_listed() -> None:
    lines = state_difference(state(), state(hidden_size=24, num_layers=3), "model.pt", limit=2)
    assert lines[:2] == ["hidden_size: 24 in model.pt, 16 here", "num_layers: 3 in model.pt, 2 here"]
    differing = len(state(num_layers=3)) - 3  # all but the embedder's weight and the biases of the two MLPs shared
    assert lines[-1] == f"and {differing - 2} more tensors"
    assert len(lines) == 2 + 2 + 1


def test_an_empty_state_misses_everything() -> None:
    lines = state_difference(state(), {}, "model.pt", limit=100)
    assert "hidden_size: nothing in model.pt, 16 here" in lines
    assert "num_layers: 0 in model.pt, 2 here" in lines
    assert sum(line.endswith("missing in model.pt") for line in lines) == len(state())


def test_values_only_one_side_has_are_differences() -> None:
    assert differences({"seed": 0, "margin": 2}, {"margin": 2, "checkpoint": "ViT"}, "model.json") == [
        "seed: nothing in model.json, 0 here",
        "checkpoint: ViT in model.json, nothing here",
    ]
