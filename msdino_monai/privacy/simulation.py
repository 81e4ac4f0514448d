"""What an export with given settings makes of images the attacker holds: training data without end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches
from msdino_monai.vault.quantise import quantise

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SimulatedExport:
    """Token sets (B, N, D) in their true order, as the coordinator would read them, and the pictures (B, H, W)."""

    tokens: Floats
    images: Floats

    @classmethod
    def of(
        cls,
        images: torch.Tensor,
        embedder: KnownEmbedder,
        *,
        noise: float = 0.0,
        dtype: str = "float16",
        augment: Callable[[Any], Any] | None = None,
        copies: int = 1,
        seed: int = 0,
    ) -> SimulatedExport:
        """From auxiliary images (B, 1, H, W) in [0, 1], each augmented `copies` times."""
        generator = np.random.default_rng(seed)
        views = [image if augment is None else augment(image.clone()) for image in images for _ in range(copies)]
        pictures = torch.stack([torch.as_tensor(view) for view in views])[:, 0].clamp(0, 1).float().numpy()
        patches = cut_patches(pictures, embedder.patch_size, embedder.margin)
        flat = 2 * patches.reshape(*patches.shape[:2], -1) - 1
        tokens = flat @ embedder.matrix.T.astype(np.float32) + embedder.codes.astype(np.float32)
        if noise:
            spread = noise * tokens.std(axis=(1, 2), keepdims=True)
            tokens = tokens + spread * generator.standard_normal(tokens.shape, dtype=np.float32)
        stored, scale = quantise(tokens, dtype)
        return cls(stored.astype(np.float32) * scale[:, None, None], pictures)
