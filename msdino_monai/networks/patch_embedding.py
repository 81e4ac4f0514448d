"""The frozen patch embedding: the contract between hospitals and coordinator.

Every hospital must use the same one, so it is drawn from a seed (or taken from a ViT checkpoint) and named by the hash
of its weights. It is linear and known to everybody: it hides nothing by itself.
"""

# No `from __future__ import annotations` here: TorchScript must see the types of the buffers, not their names.
import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.errors import UserError

# Where published ViTs keep their patch projection: timm and DINO, Hugging Face, MONAI.
_CHECKPOINT_KEYS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "patch_embedding.patch_embeddings.weight",
)


class PatchEmbedding(nn.Module):
    """Images (B, 1, H, W) in [0, 1] to tokens (B, N, D), one for each patch, row by row; frozen.

    Args:
        img_size: height and width, a multiple of `patch_size`.
        patch_size: side of a square patch.
        embedding_dim: D; with a checkpoint it must equal the checkpoint's.
        margin: pixels dropped around each patch before it is embedded, so that neighbours no longer fit together.
        seed: which orthonormal map is drawn.
        position_scale: 0, or the standard deviation of sine-cosine position codes added to the tokens.
        checkpoint: a ViT state dict (.pt, .pth or .safetensors) whose patch projection is used instead.
    """

    weight: torch.Tensor
    positions: torch.Tensor

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embedding_dim: int = 128,
        margin: int = 0,
        seed: int = 0,
        position_scale: float = 0.0,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__()
        if img_size < patch_size or img_size % patch_size:
            raise ValueError(f"img_size must be a multiple of patch_size {patch_size}, got {img_size}.")
        if not 0 <= 2 * margin < patch_size:
            raise ValueError(f"margin must leave pixels of a {patch_size}-pixel patch, got {margin}.")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}.")
        if position_scale < 0:
            raise ValueError(f"position_scale must not be negative, got {position_scale}.")
        self.img_size, self.patch_size, self.margin = img_size, patch_size, margin
        self.origin = {"seed": seed} if checkpoint is None else {"checkpoint": "ViT"}
        inner = patch_size - 2 * margin
        if checkpoint is None:
            kernel = torch.from_numpy(orthonormal_map(embedding_dim, inner * inner, seed))
            kernel = kernel.reshape(embedding_dim, 1, inner, inner)
        else:
            kernel = checkpoint_kernel(checkpoint, embedding_dim, patch_size)[
                ..., margin : margin + inner, margin : margin + inner
            ]
        self.register_buffer("weight", F.pad(kernel, (margin,) * 4))  # (D, 1, p, p), a ring of zeros
        codes = position_codes(img_size // patch_size, embedding_dim) * np.float32(position_scale)
        self.position_scale = position_scale
        self.register_buffer("positions", torch.from_numpy(codes), persistent=False)

    @property
    def num_tokens(self) -> int:
        side = self.img_size // self.patch_size
        return side * side  # TorchScript takes a power for a float

    @property
    def embedding_dim(self) -> int:
        return int(self.weight.shape[0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        centred = 2.0 * image - 1.0
        tokens = F.conv2d(centred, self.weight, stride=self.patch_size)  # (B, 1, H, W) -> (B, D, h, w)
        tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, N, D)
        return tokens + self.positions

    def describe(self) -> dict[str, Any]:
        """What a manifest says of this embedding; its `sha256` is equal if and only if the tokens mean the same."""
        description: dict[str, Any] = {
            "patch_size": self.patch_size,
            "num_tokens": self.num_tokens,
            "embedding_dim": self.embedding_dim,
            "margin": self.margin,
            "position_scale": self.position_scale,
            **self.origin,
        }
        weights = self.weight.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode() + b"\0" + weights)
        return {**description, "sha256": digest.hexdigest()}


def orthonormal_map(rows: int, columns: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A seeded (rows, columns) map with orthonormal rows (or columns, if there are fewer of them).

    Rounded to 2^-16, far above what LAPACKs disagree about, so that all machines draw the same one.
    """
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(normal)
    basis *= np.where(np.diag(triangle) < 0, -1.0, 1.0)  # LAPACKs choose signs freely
    rounded = np.round(basis * 2.0**16) / 2.0**16
    return np.ascontiguousarray(rounded.T if rows <= columns else rounded, dtype=np.float32)


def position_codes(grid: int, embedding_dim: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Sine-cosine codes (N, D) of unit variance: half of the channels for rows, half for columns."""
    channel = np.arange(embedding_dim)
    axis = channel % 2
    frequency = 100.0 ** (-(channel // 4) / max(1.0, embedding_dim / 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    place = np.where(axis, rows[:, None], columns[:, None])  # (N, D)
    wave = np.where(channel // 2 % 2, np.cos(place * frequency), np.sin(place * frequency))
    return np.asarray(np.sqrt(2.0) * wave, dtype=np.float32)


def checkpoint_kernel(path: str | Path, embedding_dim: int, patch_size: int) -> torch.Tensor:
    """The patch projection (D, 1, p, p) of a published ViT, its colour channels summed: grey images repeat them."""
    weights = _load_tensors(Path(path))
    weights = {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in weights.items()}
    found = next((weights[key] for key in _CHECKPOINT_KEYS if key in weights), None)
    if found is None:
        raise UserError(f"{path} holds no patch projection; looked for {', '.join(_CHECKPOINT_KEYS)}.")
    kernel = found.float().sum(dim=1, keepdim=True)  # (D, C, p, p) -> (D, 1, p, p)
    if kernel.shape != (embedding_dim, 1, patch_size, patch_size):
        raise UserError(
            f"{path} embeds patches of {kernel.shape[-1]} pixels in {kernel.shape[0]} dimensions; "
            f"set patch_size and embedding_dim to that (now {patch_size} and {embedding_dim})."
        )
    return kernel


def _load_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"checkpoint {path} is not a file; give a ViT state dict.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} does not load as plain weights; save its state dict with torch.save.") from error
    for wrapper in ("teacher", "student", "state_dict", "model"):
        if isinstance(loaded.get(wrapper), dict):
            return dict(loaded[wrapper])
    return dict(loaded)
