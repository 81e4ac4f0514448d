"""What is done to tokens before they leave: noise, shuffle, drop. How much each one hides is measured by the audit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped]

from msdino_monai.vault import draw_orders, shuffle_tokens


@dataclass(frozen=True)
class Defences:
    """Options of the export that change the tokens themselves; margin and dimensions belong to the embedding.

    Args:
        noise: standard deviation of added noise, relative to that of all numbers of the view; evenly mid-grey has none.
        kept_share: share of tokens that are exported; the rest is dropped at random.
        randomness: so many random bytes; noise and drop draw from it, the shuffle always from the operating system.
    """

    noise: float = 0.0
    kept_share: float = 1.0
    randomness: Callable[[int], bytes] = os.urandom

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be a number of at least 0, got {self.noise}.")
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must be in (0, 1], got {self.kept_share}.")

    def kept_tokens(self, num_tokens: int) -> int:
        return max(1, round(self.kept_share * num_tokens))

    def apply(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Views (V, N, D) to shuffled tokens (V, K, D), and the orders (V, K) they were drawn in."""
        num_views, num_tokens, _ = tokens.shape
        if self.noise:
            spread = self.noise * tokens.std(axis=(1, 2), keepdims=True)
            tokens = tokens + spread * self._normal(tokens.shape)
        kept = self.kept_tokens(num_tokens)
        orders = draw_orders(num_views, kept)
        if kept < num_tokens:
            orders = np.take_along_axis(self._choose(num_views, num_tokens)[:, :kept], orders, axis=1)
        return shuffle_tokens(tokens, orders), orders

    def describe(self) -> dict[str, float]:
        return {"noise": self.noise, "kept_share": self.kept_share}

    def _choose(self, num_views: int, num_tokens: int) -> NDArray[np.int64]:
        """All tokens (V, N) of each view, those to keep first."""
        keys = np.frombuffer(self.randomness(8 * num_views * num_tokens), dtype=np.uint64)
        return np.argsort(keys.reshape(num_views, num_tokens), axis=1, kind="stable")

    def _normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Standard normal, each number from random bytes of its own: no generator stands behind it to be guessed."""
        uniform = np.frombuffer(self.randomness(4 * math.prod(shape)), dtype=np.uint32)
        normal: NDArray[np.float32] = ndtri((uniform + 0.5) / 2**32).astype(np.float32)
        return normal.reshape(shape)
