"""Random numbers that are a function of their keys, not of what was drawn before.

The order of the data and the sampling of tokens must be the same after an interruption, on one rank or on many. So
every number is a hash (SplitMix64's finaliser) of the seed, the epoch, the image and whatever else names it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def keyed_bits(*keys: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """64 random bits for each combination of the (broadcast) keys."""
    bits = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            bits = _mixed((bits ^ np.asarray(key).astype(np.uint64)) + _STEP)
    return bits


def keyed_uniform(*keys: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each combination of the (broadcast) keys."""
    return np.asarray((keyed_bits(*keys) >> np.uint64(11)) * 2.0**-53)


def keyed_order(count: int, *keys: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """A permutation of `count` things."""
    return np.argsort(keyed_bits(*keys, np.arange(count)), kind="stable")


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return np.asarray(bits ^ (bits >> np.uint64(31)))
