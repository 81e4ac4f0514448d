"""Payload number formats: float16, or int8 with one scale per view."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

DTYPES = {"float16": "<f2", "int8": "|i1"}

Floats = npt.NDArray[np.floating[Any]]


def quantise(tokens: Floats, dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Views (V, K, D) in the payload's number format and the scale (V,) that restores them.

    Out-of-range and non-finite values are refused: they would be silently lost.
    """
    tokens = np.asarray(tokens)
    largest = np.abs(tokens).max(axis=(1, 2), initial=0).astype(np.float32)  # (V, K, D) -> (V,)
    if not np.isfinite(largest).all():
        raise ValueError("embeddings must be finite.")
    if dtype == "float16":
        if largest.max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"embeddings up to {largest.max()} do not fit float16; scale them or use dtype int8.")
        return tokens.astype(np.float16), np.ones_like(largest)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(tokens / scale[:, None, None]).clip(-127, 127).astype(np.int8), scale
