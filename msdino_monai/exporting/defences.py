"""What is done to tokens before they leave: noise, shuffle, drop. How much each one hides is measured by the audit."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msdino_monai.vault import draw_orders, shuffle_tokens


@dataclass(frozen=True)
class Defences:
    """Options of the export that change the tokens themselves; margin and dimensions belong to the embedding.

    Args:
        noise: standard deviation of added noise, relative to the view's own.
        kept_share: share of tokens that are exported; the rest is dropped at random.
    """

    noise: float = 0.0
    kept_share: float = 1.0

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}.")
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must be in (0, 1], got {self.kept_share}.")

    def kept_tokens(self, num_tokens: int) -> int:
        return max(1, round(self.kept_share * num_tokens))

    def apply(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Views (V, N, D) to shuffled tokens (V, K, D), and the orders (V, K) they were drawn in."""
        num_views, num_tokens, _ = tokens.shape
        if self.noise:
            spread = self.noise * tokens.std(axis=(1, 2), keepdims=True)
            tokens = tokens + spread * _fresh_generator().standard_normal(tokens.shape, dtype=np.float32)
        orders = draw_orders(num_views, num_tokens)[:, : self.kept_tokens(num_tokens)]
        return shuffle_tokens(tokens, orders), orders

    def describe(self) -> dict[str, float]:
        return asdict(self)


def _fresh_generator() -> np.random.Generator:
    """Seeded by the operating system for every image, so that no noise can be drawn again."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(os.urandom(16), "little")))
