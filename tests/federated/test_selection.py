from __future__ import annotations

import pytest
import torch
from small_bundle import SmallNetwork
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.federated.selection import base_hash, check_tensors, copy_in, copy_out, freeze_others, travelling


def test_trained_parameters_travel_and_frozen_ones_do_not() -> None:
    assert set(travelling(SmallNetwork())) == {"head.weight", "head.bias", "base.lora_a", "base.lora_b"}


def test_pattern_freezes_what_it_does_not_match() -> None:
    network = SmallNetwork()
    freeze_others(network, "lora_")
    assert set(travelling(network)) == {"base.lora_a", "base.lora_b"}
    assert not network.head.weight.requires_grad


def test_pattern_without_a_match_is_refused() -> None:
    network = SmallNetwork()
    freeze_others(network, "nothing")
    with pytest.raises(UserError, match="--trainable"):
        travelling(network)


def test_pattern_that_is_no_expression_is_refused() -> None:
    with pytest.raises(UserError, match="regular expression"):
        freeze_others(SmallNetwork(), "lora_(")


def test_statistics_of_trained_batch_norms_travel() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2).requires_grad_(False))
    names = set(travelling(network))
    assert {"1.running_mean", "1.running_var"} <= names
    assert not any(name.startswith("2.") for name in names)


def test_what_goes_out_comes_in_again() -> None:
    source, target = SmallNetwork(), SmallNetwork()
    with torch.no_grad():
        source.base.lora_b.fill_(3.0)
    out = copy_out(source)
    copy_in(target, out)
    assert torch.equal(target.base.lora_b, source.base.lora_b)
    out["base.lora_b"].zero_()
    assert source.base.lora_b.min() == 3.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("base.lora_a"), "base.lora_a is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is unknown"),
        (lambda t: t.update({"base.lora_a": torch.zeros(1, 12)}), "not"),
        (lambda t: t["base.lora_a"].fill_(float("inf")), "not finite"),
    ],
)
def test_tensors_that_do_not_belong_are_refused(change: object, said: str) -> None:
    own = copy_out(SmallNetwork())
    other = copy_out(SmallNetwork())
    change(other)  # type: ignore[operator]
    with pytest.raises(UserError, match=said):
        check_tensors(other, own)


def test_base_hash_sees_the_base_and_not_what_is_trained() -> None:
    network, same, other = SmallNetwork(), SmallNetwork(), SmallNetwork()
    with torch.no_grad():
        same.head.weight.add_(1)
        other.base.weight[0, 0] += 1e-6
    assert base_hash(network) == base_hash(same)
    assert base_hash(network) != base_hash(other)


def test_base_hash_sees_which_tensors_travel() -> None:
    network = SmallNetwork()
    before = base_hash(network)
    freeze_others(network, "lora_")
    assert base_hash(network) != before
