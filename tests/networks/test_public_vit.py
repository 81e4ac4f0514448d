from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import ViT

from msdino_monai.errors import UserError
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.public_vit import (
    HALF,
    IMAGENET,
    Normalisation,
    folded_projection,
    from_public_checkpoint,
    resize_positions,
)

HEADS, WIDTH, INNER, PATCH, GRID = 2, 128, 320, 8, 6
State = dict[str, torch.Tensor]


def public_state(depth: int = 3, registers: int = 0, layer_scale: bool = False, std: float = 0.15) -> State:
    """Random weights under timm's names; the residual stream has the variance trained ViTs have, far above 1e-5."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + GRID * GRID, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    if registers:
        shapes |= {"register_tokens": (1, registers, WIDTH), "mask_token": (1, WIDTH)}
    for index in range(depth):
        for name, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", INNER, WIDTH),
            ("mlp.fc2", WIDTH, INNER),
        ):
            shapes |= {
                f"blocks.{index}.{name}.weight": (outputs, inputs),
                f"blocks.{index}.{name}.bias": (outputs,),
            }
    generator = torch.Generator().manual_seed(0)
    state = {name: std * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in state.keys() & {"pos_embed", "register_tokens"}:
        state[name] *= 8
    for name in ["norm", *(f"blocks.{index}.norm{number}" for index in range(depth) for number in (1, 2))]:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(WIDTH, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(WIDTH, generator=generator)
    if layer_scale:
        for index in range(depth):
            for number in (1, 2):
                state[f"blocks.{index}.ls{number}.gamma"] = torch.rand(WIDTH, generator=generator)
    return state


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def vit(state: Mapping[str, torch.Tensor], pictures: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """A vision transformer as the paper has it (arXiv 2010.11929, pre-norm), one image and one head at a time.

    Slow on purpose: an oracle. Registers and layer scale as in arXiv 2309.16588 and 2103.17239.
    """
    side = pictures.shape[-1] // PATCH
    class_code, codes = state["pos_embed"][0, 0], state["pos_embed"][0, 1:].reshape(GRID, GRID, WIDTH)
    if side != GRID:
        planes = codes.permute(2, 0, 1)[None]
        codes = F.interpolate(planes, (side, side), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)

    def norm(hidden: torch.Tensor, name: str) -> torch.Tensor:
        centred = hidden - hidden.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return hidden @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    outputs = []
    for picture in pictures:
        tokens = [state["cls_token"][0, 0] + class_code, *state.get("register_tokens", torch.zeros(1, 0, WIDTH))[0]]
        for row in range(side):
            for column in range(side):
                patch = picture[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                embedded = (state["patch_embed.proj.weight"] * patch).sum(dim=(1, 2, 3))
                tokens.append(embedded + state["patch_embed.proj.bias"] + codes[row, column])
        hidden = torch.stack(tokens)
        for index in range(sum(name.endswith("norm1.weight") for name in state)):
            block = f"blocks.{index}"
            queries, keys, values = linear(norm(hidden, f"{block}.norm1"), f"{block}.attn.qkv").split(WIDTH, dim=1)
            heads = []
            for channels in torch.arange(WIDTH).split(WIDTH // HEADS):
                scores = queries[:, channels] @ keys[:, channels].T / math.sqrt(len(channels))
                heads.append(scores.softmax(dim=1) @ values[:, channels])
            branch = linear(torch.cat(heads, dim=1), f"{block}.attn.proj")
            hidden = hidden + branch * state.get(f"{block}.ls1.gamma", torch.ones(1))
            inner = linear(norm(hidden, f"{block}.norm2"), f"{block}.mlp.fc1")
            inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
            hidden = hidden + linear(inner, f"{block}.mlp.fc2") * state.get(f"{block}.ls2.gamma", torch.ones(1))
        outputs.append(norm(hidden, "norm"))
    features = torch.stack(outputs)
    return torch.cat([features[:, :1], features[:, -side * side :]], dim=1)


def encoder_for(sizes: Mapping[str, int], img_size: int) -> ImageEncoder:
    body = ViTBody(**{name: size for name, size in sizes.items() if name != "patch_size"})
    return ImageEncoder(PatchEmbedding(img_size, sizes["patch_size"], sizes["embedding_dim"]), body).eval()


def mapped_features(state: State, image: torch.Tensor, normalisation: Normalisation = IMAGENET) -> torch.Tensor:
    weights, sizes = from_public_checkpoint(state, grid=image.shape[-1] // PATCH, normalisation=normalisation)
    encoder = encoder_for(sizes, image.shape[-1])
    encoder.load_state_dict(weights)
    with torch.inference_mode():
        return encoder.features(image)


def normalised(image: torch.Tensor, normalisation: Normalisation = IMAGENET) -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in normalisation)
    return (image.repeat(1, 3, 1, 1) - mean) / std


def huggingface_names(state: State, block_rules: tuple[tuple[str, str], ...], prefix: str = "") -> State:
    """The same weights as Hugging Face stores them: queries, keys and values apart."""
    top_rules = (
        (r"^(cls_token|register_tokens|mask_token)", r"embeddings.\1"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^head\.", "classifier."),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
    )
    renamed: State = {}
    for name, tensor in state.items():
        for rule in (*top_rules, *block_rules):
            name = re.sub(*rule, name)
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[prefix + name.replace("attn.qkv", f"attention.attention.{part}")] = third
        else:
            renamed[prefix + name] = tensor
    return renamed


def as_huggingface_vit(state: State) -> State:
    rules = (("norm1", "layernorm_before"), ("norm2", "layernorm_after"), (r"mlp\.fc1", "intermediate.dense"))
    return huggingface_names(state, (*rules, (r"mlp\.fc2", "output.dense")), prefix="vit.")


def as_huggingface_dinov2(state: State) -> State:
    return huggingface_names(state, ((r"ls([12])\.gamma", r"layer_scale\1.lambda1"),))


@pytest.mark.parametrize("normalisation", [IMAGENET, HALF])
@pytest.mark.parametrize("side", [GRID, 4, 9])
def test_mapped_encoder_has_the_features_of_the_public_vit(side: int, normalisation: Normalisation) -> None:
    image = torch.rand(2, 1, side * PATCH, side * PATCH)
    expected = vit(public_state(), normalised(image, normalisation))
    found = mapped_features(public_state(), image, normalisation)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_mapping_is_exact_but_for_the_epsilon_of_layer_norm() -> None:
    image = torch.rand(2, 1, GRID * PATCH, GRID * PATCH)
    expected = vit(public_state(), normalised(image), epsilon=1e-5)
    torch.testing.assert_close(mapped_features(public_state(), image), expected, atol=1e-5, rtol=0)


def test_registers_and_layer_scale_are_mapped() -> None:
    state = public_state(registers=3, layer_scale=True)
    image = torch.rand(2, 1, GRID * PATCH, GRID * PATCH)
    expected = vit(state, normalised(image))
    torch.testing.assert_close(mapped_features(state, image), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(vit(public_state(layer_scale=True), normalised(image)), expected, atol=1e-2)


def test_another_normalisation_would_be_seen() -> None:
    image = torch.rand(1, 1, GRID * PATCH, GRID * PATCH)
    expected = vit(public_state(), normalised(image, IMAGENET))
    assert not torch.allclose(mapped_features(public_state(), image, HALF), expected, atol=1e-2)


def test_sizes_are_those_of_the_body_it_fits() -> None:
    _, sizes = from_public_checkpoint(public_state(registers=4))
    assert sizes == {
        "patch_size": PATCH,
        "embedding_dim": WIDTH,
        "hidden_size": WIDTH,
        "mlp_dim": INNER,
        "num_layers": 3,
        "num_heads": 2,
        "num_registers": 4,
        "num_positions": GRID * GRID,
    }
    assert from_public_checkpoint(public_state(), num_heads=8)[1]["num_heads"] == 8


@pytest.mark.parametrize(
    "rename",
    [
        lambda state: {f"module.backbone.{name}": tensor for name, tensor in state.items()},
        as_huggingface_vit,
        as_huggingface_dinov2,
    ],
    ids=["dino", "vit", "dinov2"],
)
def test_other_names_of_the_same_weights_give_the_same_encoder(rename: Callable[[State], State]) -> None:
    state = public_state(registers=2, layer_scale=rename is as_huggingface_dinov2)
    expected, _ = from_public_checkpoint(state)
    found, _ = from_public_checkpoint(rename(state))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_class_token_without_a_code_is_taken_as_it_is() -> None:
    state = public_state()
    expected, _ = from_public_checkpoint(state)
    codes = state.pop("pos_embed")
    bare, _ = from_public_checkpoint(
        {**state, "cls_token": state["cls_token"] + codes[:, :1], "pos_embed": codes[:, 1:]}
    )
    assert all(torch.equal(bare[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_monai_vit_maps_exactly(qkv_bias: bool) -> None:
    image = torch.rand(2, 1, 48, 48)
    network = ViT(1, 48, 16, 64, 96, 2, 1, classification=True, spatial_dims=2, qkv_bias=qkv_bias).eval()
    network.cls_token.data.normal_()
    weights, sizes = from_public_checkpoint(network.state_dict(), normalisation=Normalisation((0.0,), (1.0,)))
    encoder = encoder_for(sizes, 48)
    encoder.load_state_dict(weights)
    with torch.inference_mode():
        expected = network.norm(network(image)[1][-1])
        torch.testing.assert_close(encoder.features(image), expected, atol=1e-5, rtol=0)


def test_weights_are_float32_and_share_nothing() -> None:
    state = {name: tensor.half() for name, tensor in public_state(std=0.05).items()}
    weights, _ = from_public_checkpoint(state)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in weights.values())
    full = public_state()
    from_public_checkpoint(full)[0]["body.norm.weight"].zero_()
    assert full["norm.weight"].abs().sum() > 0


def test_resized_positions_keep_a_constant_and_turn_with_the_image() -> None:
    codes = torch.randn(1, 25, 6)
    assert torch.equal(resize_positions(codes, 5), codes)
    torch.testing.assert_close(resize_positions(torch.ones(1, 25, 6), 8), torch.ones(1, 64, 6))

    def turned(positions: torch.Tensor, side: int) -> torch.Tensor:
        return positions.reshape(1, side, side, 6).transpose(1, 2).reshape(1, side * side, 6)

    torch.testing.assert_close(resize_positions(turned(codes, 5), 8), turned(resize_positions(codes, 8), 8))


def test_positions_of_no_square_are_not_resized() -> None:
    with pytest.raises(UserError, match="12 position codes form no square"):
        resize_positions(torch.zeros(1, 12, 6), 4)


def test_folded_projection_wants_a_number_for_each_colour() -> None:
    with pytest.raises(UserError, match="have 1 channels"):
        folded_projection(torch.zeros(4, 1, 8, 8), None, IMAGENET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls_token": None}, "no cls_token in it"),
        ({"norm.weight": None, "fc_norm.weight": torch.zeros(WIDTH)}, r"no norm\.weight in it"),
        ({"dist_token": torch.zeros(1, 1, WIDTH)}, "no place for: dist_token"),
        ({"blocks.0.attn.q_norm.weight": torch.zeros(64)}, r"no place for: blocks\.0\.attn\.q_norm\.weight"),
        ({"blocks.1.mlp.fc2.bias": None}, r"blocks\.1 of the checkpoint is not whole"),
        ({"pos_embed": torch.zeros(1, 31, WIDTH)}, "31 position codes form no square grid"),
        ({"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 4, 8, 8)}, "no square patches"),
        ({"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 4, 8)}, "no square patches"),
        ({"pos_embed": torch.zeros(37, WIDTH)}, r"positions of shape \(37, 128\) do not fit its width 128"),
        ({"cls_token": torch.zeros(1, 1, 64)}, r"cls_token of shape \(1, 1, 64\) do not fit its width 128"),
        ({"module.norm.bias": torch.zeros(WIDTH)}, r"no place for: module\.norm\.bias"),
    ],
)
def test_what_cannot_be_mapped_is_named(change: Mapping[str, torch.Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in {**public_state(), **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        from_public_checkpoint(state)


def test_other_networks_are_no_vision_transformers() -> None:
    with pytest.raises(UserError, match="no vision transformer"):
        from_public_checkpoint({"conv1.weight": torch.zeros(64, 3, 7, 7)})
