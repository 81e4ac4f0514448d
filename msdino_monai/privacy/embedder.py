"""The embedder as the attacker has it: rebuilt from the manifest's description, and as one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError
from msdino_monai.networks import PatchEmbedding

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KnownEmbedder:
    """Tokens are `matrix` times visible pixels in [-1, 1], plus the code of the place.

    Args:
        matrix: (D, P), P the pixels of a patch within its margin, row by row.
        codes: (N, D), zero without position codes.
    """

    matrix: Doubles
    codes: Doubles
    patch_size: int
    margin: int

    @property
    def width(self) -> int:
        """Side of what is visible of a patch."""
        return self.patch_size - 2 * self.margin

    @property
    def grid(self) -> tuple[int, int]:
        side = round(len(self.codes) ** 0.5)
        return side, side

    @property
    def visible(self) -> npt.NDArray[np.bool_]:
        """Which pixels (p * p,) of a patch are embedded."""
        shown = np.zeros((self.patch_size, self.patch_size), dtype=bool)
        inner = slice(self.margin, self.patch_size - self.margin)
        shown[inner, inner] = True
        return shown.ravel()

    @classmethod
    def of(cls, embedding: PatchEmbedding) -> KnownEmbedder:
        inner = slice(embedding.margin, embedding.patch_size - embedding.margin)
        weight = embedding.weight[:, 0, inner, inner].double().cpu().numpy()
        codes = embedding.positions.double().cpu().numpy()
        return cls(weight.reshape(len(weight), -1), codes, embedding.patch_size, embedding.margin)


def rebuild(description: Mapping[str, Any], checkpoint: str | Path | None = None) -> KnownEmbedder:
    """The embedder a manifest describes; one taken from a ViT needs the `checkpoint`, which all hospitals share."""
    side = round(int(description["num_tokens"]) ** 0.5)
    if "seed" not in description and checkpoint is None:
        raise UserError("the export's embedder was taken from a ViT checkpoint; give embedder_checkpoint to the audit.")
    embedding = PatchEmbedding(
        img_size=side * int(description["patch_size"]),
        patch_size=int(description["patch_size"]),
        embedding_dim=int(description["embedding_dim"]),
        margin=int(description["margin"]),
        seed=int(description.get("seed", 0)),
        position_scale=float(description["position_scale"]),
        checkpoint=checkpoint,
    )
    if embedding.describe()["sha256"] != description["sha256"]:
        raise UserError("the embedder rebuilt from the manifest has another hash; use the version that exported.")
    return KnownEmbedder.of(embedding)
