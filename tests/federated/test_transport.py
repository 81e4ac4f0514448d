from __future__ import annotations

import pytest
import torch

from msdino_monai.errors import UserError
from msdino_monai.federated.transport import TRANSPORTS, minus, pack, plus, quantised, tensor_bytes, unpack, zeros

# FLAP-SAM's trained parameters: ViT-B, rank 32, two classes.
FLAP = {
    **{f"encoder.{i}.lora_{x}": (32, 768) if x == "a" else (768, 32) for i in range(24) for x in "ab"},
    **{f"decoder.{i}.lora_a": (32, 256) for i in range(14)},
    "decoder.lora_b": (73728,),
    "upscaling": (76632,),
    "hypernetworks": (400920,),
    "mask_tokens": (3, 256),
}


def tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_receiver_reads_what_the_sender_believes_it_reads(transport: str) -> None:
    sent = tensors({"b": (5, 70), "a": (3,), "scalar": (), "z.empty": (0,)})
    data, believed = pack(sent, transport)
    read = unpack(data, transport)
    assert {name: tensor.shape for name, tensor in read.items()} == {name: t.shape for name, t in sent.items()}
    assert all(torch.equal(read[name], believed[name]) for name in sent)


@pytest.mark.parametrize(("transport", "error"), [("fp32", 0.0), ("bf16", 2**-8), ("int8", 1 / 200)])
def test_rounding_stays_below_the_step(transport: str, error: float) -> None:
    sent = tensors({"w": (64, 64)})
    _, read = pack(sent, transport)
    assert (read["w"] - sent["w"]).abs().max() <= error * sent["w"].abs().max()


@pytest.mark.parametrize(("transport", "limit"), [("fp32", 7.5e6), ("bf16", 3.75e6), ("int8", 1.95e6)])
def test_flap_messages_keep_to_their_bytes(transport: str, limit: float) -> None:
    sent = tensors(FLAP)
    assert sum(tensor.numel() for tensor in sent.values()) == 1_846_384
    data, _ = pack(sent, transport)
    assert len(data) <= limit
    assert tensor_bytes(data) <= len(data) <= 1.01 * tensor_bytes(data)


def test_tensor_bytes_of_float32_are_four_for_each_number() -> None:
    data, _ = pack(tensors({"w": (10, 3), "b": (7,)}), "fp32")
    assert tensor_bytes(data) == 4 * 37


@pytest.mark.parametrize("transport", ["bf16", "int8"])
def test_error_feedback_loses_nothing_in_the_long_run(transport: str) -> None:
    kept = zeros(tensors({"w": (300,)}))
    wanted, arrived = zeros(kept), zeros(kept)
    largest = 0.0
    for seed in range(40):
        update = tensors({"w": (300,)}, seed)
        wanted = plus(wanted, update)
        _, read = pack(plus(update, kept), transport)
        kept = minus(plus(update, kept), read)
        arrived = plus(arrived, read)
        largest = max(largest, float(kept["w"].abs().max()))
    torch.testing.assert_close(plus(arrived, kept)["w"], wanted["w"], rtol=1e-4, atol=1e-4)
    assert (arrived["w"] - wanted["w"]).abs().max() < 1.1 * largest + 1e-4


def test_small_values_beside_large_ones_keep_their_own_scale() -> None:
    sent = {"w": torch.cat([torch.full((64,), 1e-6), torch.full((64,), 100.0)])}
    _, read = pack(sent, "int8")
    torch.testing.assert_close(read["w"], sent["w"], rtol=1e-2, atol=0)


def test_largest_value_of_a_block_is_not_cut_off() -> None:
    codes, scales = quantised(torch.linspace(-3.3, 3.3, 64))
    assert codes.abs().max() in (126, 127)
    assert 127 * scales.float() >= 3.3


def test_numbers_that_are_not_finite_do_not_become_finite() -> None:
    for transport in TRANSPORTS:
        _, read = pack({"w": torch.tensor([1.0, float("nan"), float("inf")])}, transport)
        assert not torch.isfinite(read["w"]).all()


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 100, b"\x80\x04K\x01."])
def test_bytes_that_are_no_tensors_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        unpack(data, "fp32")


def test_a_message_of_another_transport_is_refused() -> None:
    data, _ = pack({"w": torch.zeros(4)}, "fp32")
    with pytest.raises(UserError, match="float32"):
        unpack(data, "bf16")
    int8, _ = pack({"w": torch.zeros(4)}, "int8")
    with pytest.raises(UserError, match="int8"):
        unpack(int8, "fp32")


def test_missing_scales_are_refused() -> None:
    import safetensors.torch

    with pytest.raises(UserError, match="scales"):
        unpack(safetensors.torch.save({"w": torch.zeros(4, dtype=torch.int8)}), "int8")


def test_unknown_transport_is_named() -> None:
    with pytest.raises(UserError, match="fp16"):
        pack({"w": torch.zeros(1)}, "fp16")
