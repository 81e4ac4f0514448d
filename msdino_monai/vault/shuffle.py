"""The shuffle: a fresh secret order of tokens for every view. Obfuscation, not cryptography (docs/threat-model.md)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]
Orders = npt.NDArray[np.integer[Any]]


def draw_orders(num_views: int, num_tokens: int) -> npt.NDArray[np.int64]:
    """Independent, uniform permutations (V, N) from the operating system's random generator."""
    keys = np.frombuffer(os.urandom(8 * num_views * num_tokens), dtype=np.uint64)
    return np.argsort(keys.reshape(num_views, num_tokens), axis=1, kind="stable")


def shuffle_tokens(tokens: Tokens, orders: Orders) -> Tokens:
    """Reorder tokens (V, N, D) by orders (V, K); with K < N only the first K of each order are kept (token drop)."""
    return np.take_along_axis(tokens, orders[:, :, None], axis=1)  # (V, N, D) -> (V, K, D)


def unshuffle_tokens(tokens: Tokens, orders: Orders, num_tokens: int | None = None) -> Tokens:
    """Put shuffled tokens (V, K, D) back in place (V, N, D); dropped tokens are zero."""
    num_views, kept, embedding_dim = tokens.shape
    restored = np.zeros((num_views, num_tokens or kept, embedding_dim), dtype=tokens.dtype)
    np.put_along_axis(restored, orders[:, :, None], tokens, axis=1)
    return restored
