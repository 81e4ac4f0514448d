from __future__ import annotations

from typing import Any

import pytest
import torch

from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.vault import draw_orders, shuffle_tokens, unshuffle_tokens


def body(**settings: Any) -> ViTBody:
    torch.manual_seed(0)
    return ViTBody(embedding_dim=20, hidden_size=32, mlp_dim=64, num_layers=3, num_heads=4, **settings).eval()


def same_weights(other: ViTBody, as_in: ViTBody) -> ViTBody:
    other.load_state_dict(as_in.state_dict())
    return other


def test_shuffled_tokens_give_the_same_features_in_the_shuffled_order() -> None:
    tokens = PatchEmbedding(64, 16, 20)(torch.rand(3, 1, 64, 64))
    orders = draw_orders(3, 16)
    with torch.inference_mode():
        ordered = body()(tokens)
        shuffled = body()(torch.from_numpy(shuffle_tokens(tokens.numpy(), orders)))
    torch.testing.assert_close(shuffled[:, 0], ordered[:, 0], atol=1e-5, rtol=0)
    restored = torch.from_numpy(unshuffle_tokens(shuffled[:, 1:].numpy(), orders))
    torch.testing.assert_close(restored, ordered[:, 1:], atol=1e-5, rtol=0)


def test_position_codes_make_the_order_matter() -> None:
    embedding = PatchEmbedding(64, 16, 20, position_scale=1.0)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        upright, flipped = body()(embedding(image))[:, 0], body()(embedding(image.flip(-2)))[:, 0]
    assert not torch.allclose(upright, flipped, atol=1e-4)


def test_width_must_divide_by_the_heads() -> None:
    with pytest.raises(ValueError, match="got 33"):
        ViTBody(hidden_size=33)


def test_fused_attention_gives_the_same_result() -> None:
    tokens = torch.randn(2, 9, 20)
    plain = body()
    fused = same_weights(body(fused_attention=True), plain)
    torch.testing.assert_close(fused(tokens), plain(tokens), atol=1e-5, rtol=1e-5)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    tokens = torch.randn(2, 9, 20)
    plain = body().train()
    recomputed = same_weights(body(checkpoint_blocks=True), plain).train()
    for network in (plain, recomputed):
        network(tokens).square().mean().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(recomputed.get_parameter(name).grad, parameter.grad, msg=name)


def test_every_parameter_has_a_gradient() -> None:
    network = body(num_registers=2, num_positions=9)
    network(torch.randn(2, 9, 20)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_registers_take_part_and_do_not_leave() -> None:
    tokens = torch.randn(2, 9, 20)
    network = body(num_registers=3)
    before = network(tokens)
    assert before.shape == (2, 10, 32)
    assert network.registers is not None
    network.registers.data.normal_()
    assert not torch.allclose(network(tokens), before, atol=1e-6)


def test_position_codes_start_without_effect() -> None:
    tokens = torch.randn(2, 9, 20)
    plain, positioned = body(), body(num_positions=9)
    missing = positioned.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["positions"]
    torch.testing.assert_close(positioned(tokens), plain(tokens))


def test_stochastic_depth_grows_and_sleeps_in_evaluation() -> None:
    tokens = torch.randn(64, 9, 20)
    network = body(drop_path_rate=0.5)
    assert torch.equal(network(tokens), network(tokens))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in network.blocks]
    assert rates == [0.0, 0.25, 0.5]
    assert not torch.equal(network.train()(tokens), network(tokens))


def test_hidden_states_end_in_the_output() -> None:
    tokens = torch.randn(2, 9, 20)
    network = body(num_registers=1)
    first, last = network.hidden_states(tokens, [0, 2])
    assert first.shape == last.shape == (2, 10, 32)
    torch.testing.assert_close(last, network(tokens))


def test_scripted_body_gives_the_same_result() -> None:
    tokens = torch.randn(2, 9, 20)
    network = body(num_registers=1, num_positions=9, drop_path_rate=0.1, checkpoint_blocks=True)
    torch.testing.assert_close(torch.jit.script(network)(tokens), network(tokens))


def test_encoder_is_the_body_on_embedded_patches() -> None:
    embedding, network = PatchEmbedding(64, 16, 20), body()
    encoder, image = ImageEncoder(embedding, network), torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(encoder(image), network(embedding(image))[:, 0])
    assert {name.partition(".")[0] for name in encoder.state_dict()} == {"embedding", "body"}


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"got 1\.5"):
        ViTBody(drop_path_rate=1.5)
    with pytest.raises(ValueError, match="got -1"):
        ViTBody(num_registers=-1)
