"""The sizes SAM comes in: every number of its architecture, under the name users give."""

from __future__ import annotations

from dataclasses import dataclass, field

from msdino_monai.errors import UserError

_SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
_SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class ViTSize:
    """SAM's vision transformer: windowed blocks, a few global ones, relative positions."""

    width: int
    num_layers: int
    num_heads: int
    global_layers: tuple[int, ...]
    window: int = 14
    patch_size: int = 16
    mlp_ratio: int = 4

    @property
    def stride(self) -> int:
        return self.patch_size


@dataclass(frozen=True)
class TinyViTSize:
    """MobileSAM's hybrid as LiteMedSAM has it: convolutions at full resolution, attention from half of it on."""

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    strides: tuple[int, ...] = (2, 2, 1)
    mlp_ratio: int = 4

    @property
    def stride(self) -> int:
        stride = 1
        for step in self.strides:
            stride *= step
        return stride


@dataclass(frozen=True)
class DecoderSize:
    """SAM's mask decoder and prompt encoder: the same in all public sizes."""

    width: int = 256
    num_heads: int = 8
    num_layers: int = 2
    mlp_dim: int = 2048
    prompt_channels: int = 16


@dataclass(frozen=True)
class SamSize:
    """One network: its encoder, its decoder, and how it wants its pixels, `(x - mean) / std` of x in [0, 1]."""

    encoder: ViTSize | TinyViTSize
    decoder: DecoderSize = field(default_factory=DecoderSize)
    mean: tuple[float, float, float] = _SAM_MEAN
    std: tuple[float, float, float] = _SAM_STD


SIZES = {
    "vit_b": SamSize(ViTSize(768, 12, 12, (2, 5, 8, 11))),
    "vit_l": SamSize(ViTSize(1024, 24, 16, (5, 11, 17, 23))),
    "vit_h": SamSize(ViTSize(1280, 32, 16, (7, 15, 23, 31))),
    # LiteMedSAM was trained on pictures scaled to [0, 1] and nothing more.
    "lite_medsam": SamSize(TinyViTSize(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    # No public weights: small enough for tests, with a padded window and a global block like its elders.
    "tiny": SamSize(
        ViTSize(32, 3, 2, (2,), window=6, patch_size=4, mlp_ratio=2), DecoderSize(32, 2, 2, 64, prompt_channels=4)
    ),
}


def size_of(name: str) -> SamSize:
    """The size of this name."""
    if name not in SIZES:
        raise UserError(f"size {name} is not known; set size to one of {', '.join(SIZES)}.")
    return SIZES[name]
