"""Where in an image a finding comes from: attention, weighted by its gradient and rolled out through the blocks.

The method is that of Chefer, Gur and Wolf, "Generic Attention-model Explainability" (ICCV 2021, arXiv 2103.15679):
in every block each head's attention is weighted by the gradient of the finding's logit, negative parts are dropped,
the heads are averaged, and the relevance of tokens for tokens is updated by R <- R + A R. Where the head reads
several tokens, as ours reads the class token beside the mean of the patches, their rows are weighted by the positive
part of gradient times feature. It shows what the network used; it proves nothing about the patient.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from msdino_monai.networks.classifier import Classifier
from msdino_monai.vault.atomic import make_folder, write_file


class _Attention:
    """Queries, keys and values of one block, and what the attention made of them, as they passed by."""

    def __init__(self, block: nn.Module) -> None:
        self.attention: Any = block.attn
        self.qkv = torch.empty(0)
        self.mixed = torch.empty(0)

    def note_qkv(self, _: nn.Module, __: Any, output: torch.Tensor) -> None:
        self.qkv = output

    def note_mixed(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.mixed = inputs[0]

    def heads(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, T, heads * d) -> (B, heads, T, d)"""
        batch, count, width = rows.shape
        heads = int(self.attention.num_heads)
        return rows.reshape(batch, count, heads, width // heads).transpose(1, 2)

    def weighted(self, gradient: torch.Tensor) -> torch.Tensor:
        """The mean over heads (B, T, T) of the positive part of attention times its gradient.

        Computed again from queries and keys, because fused attention keeps none; with `mixed` = attention x values,
        the gradient of the attention is that of `mixed` times the values.
        """
        query, key, value = (self.heads(part) for part in self.qkv.detach().chunk(3, dim=-1))
        attention = (query @ key.transpose(-2, -1) * float(self.attention.scale)).softmax(dim=-1)
        return (attention * (self.heads(gradient) @ value.transpose(-2, -1))).clamp_min(0).mean(dim=1)


@contextmanager
def _watched(blocks: Sequence[nn.Module]) -> Iterator[list[_Attention]]:
    notes = [_Attention(block) for block in blocks]
    hooks = []
    for note in notes:
        hooks.append(note.attention.qkv.register_forward_hook(note.note_qkv))
        hooks.append(note.attention.out_proj.register_forward_pre_hook(note.note_mixed))
    try:
        yield notes
    finally:
        for hook in hooks:
            hook.remove()


@torch.enable_grad()
def relevance(network: Classifier, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """How much each patch of images (B, 1, H, W) speaks for the class (B,) asked for, (B, h, w) in [0, 1].

    The network's mode and gradients are left as they were.
    """
    body, training = network.encoder.body, network.training
    network.eval()
    try:
        with _watched(list(body.blocks)) as notes:
            # A leaf that asks for gradients, so that frozen networks are explained too.
            features = network.encoder.features(images.detach().clone().requires_grad_(True))
            logits = network.classify(features)
            chosen = logits.gather(1, classes[:, None]).sum()
            gradients = torch.autograd.grad(chosen, [features, *(note.mixed for note in notes)])
    finally:
        network.train(training)
    readout = (gradients[0] * features.detach()).sum(dim=-1).clamp_min(0)  # (B, 1 + N)
    registers = body.num_registers
    hidden = readout.new_zeros(len(readout), registers)
    row = torch.cat([readout[:, :1], hidden, readout[:, 1:]], dim=1)[:, None]  # (B, 1, 1 + R + N)
    for note, gradient in zip(reversed(notes), reversed(gradients[1:]), strict=True):
        row = row + row @ note.weighted(gradient)  # row (1 + A_last) ... (1 + A_first): the rollout, from the top
    patches = row[:, 0, 1 + registers :]
    side = round(patches.shape[1] ** 0.5)
    peak = patches.amax(dim=1, keepdim=True).clamp_min(1e-12)
    return (patches / peak).reshape(-1, side, side)  # (B, N) -> (B, h, w)


def overlay(image: torch.Tensor, heat: torch.Tensor, strength: float = 0.55) -> bytes:
    """A PNG of the image (1, H, W) in [0, 1] with relevance (h, w) laid over it in warm colours."""
    grey = image[0].float().clamp(0, 1).cpu()
    warm = F.interpolate(heat[None, None].float().cpu(), size=grey.shape, mode="bilinear", align_corners=False)[0, 0]
    warm = warm.clamp(0, 1)
    colour = torch.stack([torch.ones_like(warm), (1.6 * warm - 0.6).clamp_min(0), torch.zeros_like(warm)], dim=-1)
    share = (strength * warm)[..., None]
    pixels = (1 - share) * grey[..., None] + share * colour
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().to(torch.uint8).numpy().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_overlay(path: Path, image: torch.Tensor, heat: torch.Tensor) -> None:
    make_folder(path.parent)
    write_file(path, overlay(image, heat))
