from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from msdino_monai.errors import UserError
from msdino_monai.networks.weights import decode_tensors, hash_tensors


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_hash_sees_names_types_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}
    others = [
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"].double(), "b": state["b"]},
        {"a": state["a"].reshape(3, 2), "b": state["b"]},
        {"a": state["a"] + 1, "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({hash_tensors(state), *map(hash_tensors, others)}) == 6
    zeros = torch.zeros(4)
    assert hash_tensors({"a": zeros}) != hash_tensors({"a": zeros.int()})  # the same bytes


def test_hash_does_not_see_how_tensors_lie_in_memory() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    apart = {"b": torch.zeros(0), "a": tensor.T.contiguous().T}
    assert hash_tensors({"a": tensor, "b": torch.zeros(0)}) == hash_tensors(apart)
    assert hash_tensors({"a": torch.arange(6.0)[::2]}) == hash_tensors({"a": torch.tensor([0.0, 2.0, 4.0])})


def test_both_formats_hold_the_same() -> None:
    state = {"a": torch.randn(2, 3), "b": torch.randn(1).bfloat16()}
    pickled = decode_tensors(Path("x.pt"), saved(state))
    safe = decode_tensors(Path("x.safetensors"), safetensors.torch.save(state))
    assert hash_tensors(pickled) == hash_tensors(safe) == hash_tensors(state)


@pytest.mark.parametrize("wrapper", ["teacher", "student", "state_dict", "model"])
def test_wrapped_states_are_unwrapped(wrapper: str) -> None:
    assert decode_tensors(Path("x.pth"), saved({wrapper: {"a": torch.ones(2)}, "epoch": 3})).keys() == {"a"}


@pytest.mark.parametrize(
    "value", [torch.ones(2), [torch.ones(2)], {"a": 1}, {1: torch.ones(2)}, {"a": [torch.ones(2)]}]
)
def test_more_or_less_than_named_tensors_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="more than named tensors"):
        decode_tensors(Path("x.pt"), saved(value))


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(UserError, match="more than named tensors"):
        decode_tensors(Path("x.pt"), saved({"a": torch.eye(2).to_sparse()}))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_load_or_are_refused_and_nothing_else_happens(suffix: str) -> None:
    state = {"body.norm.weight": torch.randn(20), "body.norm.bias": torch.randn(20)}
    whole = saved(state) if suffix == ".pt" else safetensors.torch.save(state)
    draw, refused = random.Random(0), 0
    for _ in range(300):
        data = bytearray(whole[: draw.randint(1, len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            decode_tensors(Path("x" + suffix), bytes(data))
        except UserError:
            refused += 1
    assert refused > 100
