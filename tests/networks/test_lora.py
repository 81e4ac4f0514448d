"""Adapters: what they add, how they travel, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.networks.lora import (
    LoraFusedProjection,
    LoraLinear,
    LowRank,
    base_hash,
    load_adapter,
    load_trained,
    merged,
    save_adapter,
    trained_tensors,
)
from msdino_monai.networks.sam import SamSegmenter


def small(trainable: str = "flap", rank: int = 2, seed: int = 0, out_channels: int = 3) -> SamSegmenter:
    return SamSegmenter(out_channels, 16, size="tiny", rank=rank, trainable=trainable, seed=seed)


def moved(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with everything trained moved away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def test_adapter_starts_as_nothing_and_adds_its_product() -> None:
    layer = LoraLinear(6, 4, rank=2)
    features = torch.randn(3, 5, 6)
    plain = features @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(features), plain)
    with torch.no_grad():
        layer.lora_b.normal_()
    expected = plain + features @ (layer.lora_b @ layer.lora_a).T
    torch.testing.assert_close(layer(features), expected)
    torch.testing.assert_close(layer.merged()(features), expected)


@pytest.mark.parametrize("heads_first", [False, True])
def test_fused_projection_adapts_queries_and_values_and_leaves_keys(heads_first: bool) -> None:
    layer = moved(LoraFusedProjection(6, 3, rank=2, heads_first=heads_first))
    features = torch.randn(2, 5, 6)
    orders = (1, 0) if heads_first else (0, 1)
    weight = layer.weight.view(*((3, 3, 2, 6))).permute(*orders, 2, 3)  # part, head, channel of the head, C
    bias = layer.bias.view(3, 3, 2).permute(*orders, 2)
    parts = torch.einsum("phdc,bnc->pbhnd", weight, features) + bias[:, None, :, None]

    def update(adapter: LowRank) -> torch.Tensor:
        return torch.einsum("xr,rc,bnc->bnx", adapter.lora_b, adapter.lora_a, features).unflatten(2, (3, 2))

    expected = parts[0] + update(layer.query).transpose(1, 2), parts[1], parts[2] + update(layer.value).transpose(1, 2)
    torch.testing.assert_close(layer(features), expected)
    torch.testing.assert_close(layer.merged()(features), expected)


def test_rank_starts_at_one() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LowRank(4, 4, 0)


def test_merged_network_is_plain_and_gives_the_same() -> None:
    network = moved(small()).eval()
    image = torch.rand(1, 1, 16, 16, 2)
    plain = merged(network)
    torch.testing.assert_close(plain(image), network(image), atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name in plain.state_dict())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert plain.state_dict().keys() == small("full").state_dict().keys()


def test_trained_tensors_travel_to_another_network() -> None:
    source, target = moved(small()), small()
    image = torch.rand(1, 1, 16, 16, 2)
    tensors = trained_tensors(source)
    assert not torch.equal(source(image), target(image))
    load_trained(target, tensors)
    assert torch.equal(source(image), target(image))
    moved(source, seed=1)
    assert torch.equal(target(image), target.eval()(image))
    assert all(torch.equal(trained_tensors(target)[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("mask_decoder.mask_tokens.weight", None, r"lacks mask_decoder\.mask_tokens\.weight; use the same"),
        ("mask_decoder.iou_token.weight", torch.zeros(1, 32), "holds mask_decoder.iou_token.weight, which is not"),
        ("mask_decoder.mask_tokens.weight", torch.zeros(2, 32), r"of shape \(2, 32\), here it is \(3, 32\)"),
        ("mask_decoder.mask_tokens.weight", torch.full((3, 32), float("nan")), "not finite"),
        ("mask_decoder.mask_tokens.weight", torch.full((3, 32), float("inf")), "not finite"),
        ("mask_decoder.mask_tokens.weight", torch.zeros(3, 32, dtype=torch.int64), "not finite"),
    ],
)
def test_update_that_does_not_fit_is_refused_and_changes_nothing(
    name: str, tensor: torch.Tensor | None, message: str
) -> None:
    network = small()
    before = trained_tensors(network)
    update = {key: value + 1 for key, value in before.items()}
    update.pop(name, None)
    if tensor is not None:
        update[name] = tensor
    with pytest.raises(UserError, match=message):
        load_trained(network, update)
    assert all(torch.equal(before[key], value) for key, value in trained_tensors(network).items())


def test_update_in_half_precision_is_taken() -> None:
    network = small()
    update = {name: tensor.bfloat16() for name, tensor in trained_tensors(moved(small())).items()}
    load_trained(network, update)
    assert all(torch.equal(tensor, update[name].float()) for name, tensor in trained_tensors(network).items())


def test_base_hash_knows_the_base_and_nothing_of_the_training() -> None:
    assert base_hash(small()) == base_hash(moved(small())) == base_hash(small(rank=3))
    assert base_hash(small()) != base_hash(small(seed=1))
    assert base_hash(small()) != base_hash(SamSegmenter(3, 32, size="tiny", rank=2))
    other = small()
    other.architecture["size"] = "another"
    assert base_hash(small()) != base_hash(other)


def test_adapter_file_is_small_and_loads_into_the_same_base(tmp_path: Path) -> None:
    source, target = moved(small()), small()
    path = save_adapter(tmp_path / "adapter.safetensors", source, round="7")
    said = load_adapter(path, target)
    assert said["round"] == "7"
    assert said["rank"] == "2"
    assert said["base_sha256"] == base_hash(source)
    image = torch.rand(1, 1, 16, 16, 2)
    assert torch.equal(source(image), target(image))
    assert safetensors.torch.load_file(path).keys() == trained_tensors(source).keys()
    assert [found.name for found in tmp_path.iterdir()] == ["adapter.safetensors"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (small(rank=3), "has rank 2, this network has 3; set rank"),
        (small("lora"), "has trainable flap, this network has lora; set trainable"),
        (small(seed=1), "has base_sha256 .*; use the size, image_size"),
        (small(out_channels=2), "has base_sha256 .*; use the size, image_size"),
    ],
)
def test_adapter_of_another_network_is_refused(tmp_path: Path, other: SamSegmenter, message: str) -> None:
    path = save_adapter(tmp_path / "adapter.safetensors", small())
    with pytest.raises(UserError, match=message):
        load_adapter(path, other)


def test_files_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "adapter.safetensors", small())
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="copy the adapter again"):
        load_adapter(cut, small())
    safetensors.torch.save_file(trained_tensors(small()), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="no adapter of this package"):
        load_adapter(tmp_path / "plain.safetensors", small())
    with pytest.raises(UserError, match="does not exist"):
        load_adapter(tmp_path / "absent.safetensors", small())
