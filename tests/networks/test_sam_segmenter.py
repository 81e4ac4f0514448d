"""SAM for stacks of slices: what is counted, what is trained, and what the slices know of each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from msdino_monai.errors import UserError
from msdino_monai.networks.lora import base_hash, trained_tensors
from msdino_monai.networks.sam import SamSegmenter
from msdino_monai.networks.sam.attention import attend
from msdino_monai.networks.sam.decoder import Doubling, Upscaling

COUNTS = {
    "flap": 1_846_384,
    "lora": 1_368_064,
    "lora_decoder": 5_270_259,
    "decoder": 3_902_195,
    "partial_decoder": 478_320,
    "full": 90_532_927,
}


def tiny(trainable: str = "flap", image_size: int = 16, out_channels: int = 3, seed: int = 0) -> SamSegmenter:
    return SamSegmenter(out_channels, image_size, size="tiny", rank=4, trainable=trainable, seed=seed)


def count(network: torch.nn.Module, part: str = "") -> int:
    named = network.named_parameters()
    return sum(parameter.numel() for name, parameter in named if parameter.requires_grad and part in name)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("trainable", COUNTS)
def test_trained_parameters_are_those_of_flap_sam(trainable: str) -> None:
    with torch.device("meta"):
        network = SamSegmenter(3, trainable=trainable)
    assert count(network) == COUNTS[trainable]


def test_trained_parameters_sit_where_flap_sam_has_them() -> None:
    with torch.device("meta"):
        network = SamSegmenter(3)
    assert count(network, "image_encoder") == 1_179_648
    assert count(network, "mask_decoder.transformer") == 188_416
    assert count(network, "output_upscaling") == 76_632
    assert count(network, "output_hypernetworks_mlps") == 400_920
    assert count(network, "mask_tokens") == 768
    assert count(network, "iou") == count(network, "prompt_encoder") == 0


def test_full_counts_the_encoder_the_decoder_and_the_prompt_encoder() -> None:
    with torch.device("meta"):
        network = SamSegmenter(3, trainable="full")
    assert count(network, "image_encoder") == 86_624_512
    assert count(network, "mask_decoder") == COUNTS["decoder"]
    assert count(network, "prompt_encoder") == 6_220
    assert count(network, "iou") == 132_611


@pytest.mark.parametrize("size", ["vit_l", "vit_h", "lite_medsam"])
def test_other_sizes_follow_the_same_rule(size: str) -> None:
    with torch.device("meta"):
        network = SamSegmenter(3, size=size, rank=8)
    widths = {"vit_l": [1024] * 24, "vit_h": [1280] * 32, "lite_medsam": [128] * 2 + [160] * 6 + [320] * 2}[size]
    assert count(network, "image_encoder") == sum(2 * 8 * 2 * width for width in widths)
    assert count(network, "mask_decoder.transformer") == 188_416 // 4
    adapted = {name.rpartition(".")[0] for name, _ in network.named_parameters() if name.endswith(".lora_a")}
    assert len(adapted) == 2 * len(widths) + 2 * 7
    assert {name.rpartition(".")[2] for name in adapted} == {"query", "value", "q_proj", "v_proj"}


@pytest.mark.parametrize("size", ["tiny", "lite_medsam"])
def test_every_slice_is_segmented_on_its_own_at_full_resolution(size: str) -> None:
    network = SamSegmenter(4, 24, size=size, rank=4).eval()
    image = torch.rand(2, 1, 24, 24, 3)
    with torch.inference_mode():
        logits = network(image)
        assert logits.shape == (2, 4, 24, 24, 3)
        torch.testing.assert_close(network(image[..., 1:2])[..., 0], logits[..., 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network(image[1:, ..., [2, 0]]), logits[1:, ..., [2, 0]], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits[0], logits[1])


def test_upscaling_is_the_transposed_convolutions_of_sam() -> None:
    upscaling = Upscaling(64, 4)
    tokens = torch.randn(2, 6, 64)
    picture = tokens.transpose(1, 2).reshape(2, 64, 2, 3)
    for layer in upscaling:
        if isinstance(layer, Doubling):
            picture = torch.nn.functional.conv_transpose2d(picture, layer.weight, layer.bias, stride=2)
        elif isinstance(layer, torch.nn.LayerNorm):
            picture = layer(picture.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            picture = layer(picture)
    torch.testing.assert_close(upscaling.picture(upscaling(tokens), 2, 3), picture)
    names = [type(layer).__name__ for layer in upscaling]
    assert names == ["Doubling", "LayerNorm", "GELU"] * 3 + ["Doubling", "GELU"]


@pytest.mark.parametrize("biased", [False, True])
def test_fused_attention_gives_the_same(biased: bool) -> None:
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    value, bias = torch.randn(2, 3, 7, 4), torch.randn(3, 5, 7) if biased else None
    plain = attend(query, key, value, 0.3, bias)
    assert plain.shape == (2, 5, 12)
    torch.testing.assert_close(attend(query, key, value, 0.3, bias, largest_scores=0), plain)


def test_adapted_network_starts_as_the_frozen_one() -> None:
    image = torch.rand(1, 1, 16, 16, 2)
    frozen = tiny("partial_decoder")
    assert not any("lora" in name for name in frozen.state_dict())
    assert torch.equal(tiny("flap")(image), frozen(image))
    assert torch.equal(tiny("full")(image), frozen(image))


@pytest.mark.parametrize("trainable", COUNTS)
def test_training_changes_what_is_trained_and_nothing_else(trainable: str) -> None:
    network = tiny(trainable).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    frozen_hash, trained = base_hash(network), trained_tensors(network).keys()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.rand(2, 1, 16, 16, 2)).square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    silent = set(network._ddp_params_and_buffers_to_ignore)
    assert changed == trained - silent
    assert base_hash(network) == frozen_hash


def test_statistics_of_lite_medsam_stay_in_training() -> None:
    network = SamSegmenter(2, 16, size="lite_medsam", rank=2, trainable="full").train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    image = torch.rand(1, 1, 16, 16, 3)
    logits = network(image)
    logits.mean().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert torch.equal(network.eval()(image), logits)


@pytest.mark.parametrize("trainable", ["lora_decoder", "full"])
@pytest.mark.usefixtures("process_group")
def test_distributed_training_does_not_wait_for_what_is_never_used(trainable: str) -> None:
    network = DistributedDataParallel(tiny(trainable))
    for _ in range(2):
        network(torch.rand(1, 1, 16, 16, 1)).mean().backward()
    assert network.module.mask_decoder.mask_tokens.weight.grad is not None


@pytest.mark.parametrize("size", ["tiny", "lite_medsam"])
def test_recomputed_blocks_give_the_same_gradients(size: str) -> None:
    networks = [SamSegmenter(2, 16, size=size, rank=2, checkpoint_blocks=value).train() for value in (False, True)]
    image = torch.rand(1, 1, 16, 16, 2)
    for network in networks:
        network(image).square().mean().backward()
    for plain, recomputed in zip(*(network.parameters() for network in networks), strict=True):
        assert (plain.grad is None) == (recomputed.grad is None)
        if plain.grad is not None:
            torch.testing.assert_close(plain.grad, recomputed.grad)


def test_recomputing_keeps_less_for_the_way_back() -> None:
    kept = []
    for checkpoint_blocks in (False, True):
        network = SamSegmenter(2, 32, size="tiny", rank=2, checkpoint_blocks=checkpoint_blocks).train()
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.rand(1, 1, 32, 32, 2))
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


def test_frozen_encoder_keeps_nothing_for_the_way_back() -> None:
    network = tiny("decoder").train()
    features = network.image_encoder(torch.rand(1, 3, 16, 16))
    assert not features.requires_grad


def test_base_is_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = tiny()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = tiny()
    assert base_hash(first) == base_hash(second)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert base_hash(first) != base_hash(tiny(seed=1))


def test_drawn_weights_are_those_of_every_machine() -> None:
    network = tiny()
    assert base_hash(network) == "70cc75efb9627cc6f5acec01475fa3d2e5aa9904e5d56f66507d4db2113a6e79"
    weight = network.image_encoder.blocks[0].mlp.lin1.weight
    assert weight.std().item() == pytest.approx(1 / math.sqrt(weight.shape[1]), rel=0.1)


def test_bfloat16_autocast_trains() -> None:
    network = tiny().train()
    image = torch.rand(1, 1, 16, 16, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    torch.testing.assert_close(logits.float(), network(image), atol=0.1, rtol=0.1)
    logits.float().square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "vit_x"}, "size vit_x is not known; set size to one of vit_b"),
        ({"trainable": "all"}, "trainable all is not known; set trainable to one of flap"),
        ({"image_size": 226}, "image_size 226 does not fit vit_b; set it to a multiple of 16"),
        ({"image_size": 0}, "image_size 0 does not fit"),
        ({"size": "lite_medsam", "image_size": 30}, "multiple of 4"),
        ({"rank": 0}, "start at 1, got 3, 5 and 0"),
        ({"out_channels": 0}, "start at 1, got 0, 5 and 32"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_that_fit_nothing_are_refused(arguments: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        SamSegmenter(**{"out_channels": 3, **arguments})


def test_slices_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="slices must be 16 pixels wide and high, got 20 x 16"):
        tiny()(torch.rand(1, 1, 20, 16, 2))
