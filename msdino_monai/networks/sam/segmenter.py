"""SAM as a network for 3D segmentation without prompts (FLAP-SAM, Asokan et al., arXiv:2407.21739)."""

# No `from __future__ import annotations` here: TorchScript must see the types of the buffers, not their names.
from pathlib import Path

import torch
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.networks.sam.checkpoint import load_checkpoint
from msdino_monai.networks.sam.decoder import MaskDecoder
from msdino_monai.networks.sam.prompt_encoder import PromptEncoder
from msdino_monai.networks.sam.size import ViTSize, size_of
from msdino_monai.networks.sam.start import draw
from msdino_monai.networks.sam.tiny_vit import TinyViTEncoder
from msdino_monai.networks.sam.trainable import choose, has_adapters, without_gradient
from msdino_monai.networks.sam.vit import ViTEncoder


class SamSegmenter(nn.Module):
    """Stacks of slices (B, 1, H, W, S) in [0, 1] to logits (B, out_channels, H, W, S); slices do not see each other.

    Args:
        out_channels: classes, the background included.
        image_size: H and W, a multiple of the encoder's stride: 16 (`vit_*`) or 4 (`lite_medsam`, `tiny`).
        num_slices: S of the stacks it is trained on; the network itself takes any number.
        size: `vit_b`, `vit_l`, `vit_h`, `lite_medsam`, or `tiny`, which has no public weights.
        rank: of the adapters; it counts only where `trainable` has adapters.
        trainable: `flap`, `lora`, `lora_decoder`, `decoder`, `partial_decoder` or `full`.
        checkpoint: a public SAM's state dict for the base; without one it is drawn from `seed`.
        seed: what is not in the checkpoint is drawn from it, the same on every machine.
        checkpoint_blocks: recompute the encoder's blocks on the way back: less memory, more time.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        out_channels: int,
        image_size: int = 224,
        num_slices: int = 5,
        size: str = "vit_b",
        rank: int = 32,
        trainable: str = "flap",
        checkpoint: str | Path | None = None,
        seed: int = 0,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        sam, adapter_rank = size_of(size), rank if has_adapters(trainable) else 0
        stride = sam.encoder.stride
        if min(out_channels, num_slices, rank) < 1:
            raise UserError(
                f"out_channels, num_slices and rank start at 1, got {out_channels}, {num_slices} and {rank}."
            )
        if seed < 0:
            raise UserError(f"seed must not be negative, got {seed}.")
        if image_size < stride or image_size % stride:
            raise UserError(f"image_size {image_size} does not fit {size}; set it to a multiple of {stride}.")
        self.image_size, self.num_slices, self.out_channels = image_size, num_slices, out_channels
        self.architecture = {"size": size, "image_size": image_size, "out_channels": out_channels}
        self.adaptation = {"rank": adapter_rank, "trainable": trainable}
        width = sam.decoder.width
        with torch.random.fork_rng(devices=[]):  # what the layers draw for themselves is replaced below
            self.image_encoder = (
                ViTEncoder(sam.encoder, image_size, width, adapter_rank, checkpoint_blocks)
                if isinstance(sam.encoder, ViTSize)
                else TinyViTEncoder(sam.encoder, width, adapter_rank, checkpoint_blocks)
            )
            self.prompt_encoder = PromptEncoder(width, sam.decoder.prompt_channels)
            self.mask_decoder = MaskDecoder(sam.decoder, out_channels, stride.bit_length() - 1, adapter_rank)
        self.register_buffer("mean", torch.tensor(sam.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(sam.std).view(1, 3, 1, 1), persistent=False)
        draw(self, seed)
        if checkpoint is not None:
            load_checkpoint(self, checkpoint)
        choose(self, trainable)
        # DistributedDataParallel waits for the gradient of every parameter that it is not told to leave alone.
        self._ddp_params_and_buffers_to_ignore = without_gradient(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        count, _, height, width, slices = image.shape
        if height != self.image_size or width != self.image_size:
            raise ValueError(f"slices must be {self.image_size} pixels wide and high, got {height} x {width}.")
        picture = image.permute(0, 4, 1, 2, 3).reshape(count * slices, 1, height, width)  # slices join the batch
        logits = self.segment((picture - self.mean) / self.std)
        return logits.view(count, slices, -1, height, width).permute(0, 2, 3, 4, 1)

    def segment(self, picture: torch.Tensor) -> torch.Tensor:
        """Logits (B, out_channels, H, W) of normalised pictures (B, 3, H, W)."""
        features = self.image_encoder(picture)
        places, no_mask = self.prompt_encoder(features.shape[2], features.shape[3])
        return self.mask_decoder(features, places, no_mask)  # type: ignore[no-any-return]
