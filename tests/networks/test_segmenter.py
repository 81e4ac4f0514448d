from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.segmenter import Segmenter, depth_of_scale


def small_segmenter(patch_size: int = 16, num_layers: int = 3, **settings: Any) -> Segmenter:
    torch.manual_seed(0)
    embedding = PatchEmbedding(32, patch_size, 8)
    body = ViTBody(8, 16, 32, num_layers, 2, num_registers=1, num_positions=embedding.num_tokens)
    return Segmenter(ImageEncoder(embedding, body), **{"out_channels": 3, "feature_size": 4, **settings})


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_every_pixel_gets_a_score_for_every_class(patch_size: int) -> None:
    network = small_segmenter(patch_size)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 3, 32, 32)


def test_every_parameter_learns() -> None:
    """DDP waits for the gradient of every parameter."""
    network = small_segmenter()
    network(torch.rand(2, 1, 32, 32)).square().sum().backward()
    still = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert still == []


def test_depths_are_spread_over_the_body() -> None:
    assert [depth_of_scale(12, scale, 4) for scale in (4, 3, 2, 1)] == [11, 8, 5, 2]  # as in UNETR
    assert [depth_of_scale(2, scale, 4) for scale in (4, 3, 2, 1)] == [1, 1, 0, 0]
    assert small_segmenter(num_layers=1).depths == [0]


def test_each_depth_of_the_body_reaches_the_scores() -> None:
    network = small_segmenter(num_layers=4).eval()
    assert network.depths == [0, 1, 2, 3]
    image = torch.rand(1, 1, 32, 32)
    encoder = network.encoder
    states = [
        state.detach().requires_grad_()
        for state in encoder.body.hidden_states(encoder.embedding(image), network.depths)
    ]
    encoder.body.hidden_states = lambda *_: states  # type: ignore[method-assign]
    network(image).square().sum().backward()
    assert all(state.grad is not None and state.grad[:, 1:].abs().sum() > 0 for state in states)


def test_stem_keeps_edges_that_tokens_do_not_know() -> None:
    """Without any token the scores still follow single pixels."""
    network = small_segmenter().eval()
    encoder = network.encoder
    zeros = [torch.zeros(1, 5, 16) for _ in network.depths]
    encoder.body.hidden_states = lambda *_: zeros  # type: ignore[method-assign]
    image = torch.full((1, 1, 32, 32), 0.5)
    spot = image.clone()
    spot[..., 9, 22] = 1.0
    change = (network(spot) - network(image)).abs().sum(dim=1)[0]
    row, column = divmod(int(change.argmax()), 32)
    assert abs(row - 9) <= 1
    assert abs(column - 22) <= 1


def test_script_computes_the_same() -> None:
    network, image = small_segmenter(8).eval(), torch.rand(1, 1, 32, 32)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(image), network(image))


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
def test_onnx_computes_the_same() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, image = small_segmenter().eval(), torch.rand(1, 1, 32, 32)
    program = torch.onnx.export(network, (image,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (scores,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 1}, "patch_size must be 2, 4, 8, 16 or 32 for a segmentation, got 1"),
        ({"out_channels": 0}, "out_channels and feature_size start at 1, got 0 and 4"),
        ({"feature_size": 0}, "out_channels and feature_size start at 1, got 3 and 0"),
    ],
)
def test_bad_sizes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_segmenter(**settings)


def test_patch_of_no_power_of_two_is_refused() -> None:
    encoder = ImageEncoder(PatchEmbedding(36, 12, 8), ViTBody(8, 16, 32, 1, 2))
    with pytest.raises(ValueError, match="got 12"):
        Segmenter(encoder, 2)
