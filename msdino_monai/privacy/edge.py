"""How well patches fit together, from their pixels alone: each edge is extended across the gap, and both must agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.solver import PairScores

Floats = npt.NDArray[np.float32]

_WEIGHT = 8.0  # log-odds per e-fold of mean disagreement, as it was on radiographs
_DAMPING = 0.5  # a slope at the edge goes on, but not for ever


def score_edges(patches: Floats, margin: int, deviation: float = 0.0) -> PairScores:
    """Scores of patches (K, w, w) whose neighbours begin 2 * margin pixels further on.

    The mean is one of logarithms: one row across a rib weighs no more than nine rows of lung. `deviation` is the
    standard deviation of what inversion left wrong, below which a disagreement means nothing.
    """
    floor = 3e-4 + deviation
    right = _disagreement(patches, margin, floor)
    down = _disagreement(patches.swapaxes(1, 2), margin, floor)
    return PairScores(-_WEIGHT * right, -_WEIGHT * down).competing()


def _disagreement(patches: Floats, margin: int, floor: float) -> Floats:
    """Mean log-difference (K, K) of both patches' ideas of the middle of the gap."""
    half = _DAMPING * (2 * margin + 1) / 2 if margin else 0.5
    from_left = patches[:, :, -1] + half * (patches[:, :, -1] - patches[:, :, -2])
    from_right = patches[:, :, 0] + half * (patches[:, :, 0] - patches[:, :, 1])
    distance = np.abs(from_left[:, None] - from_right[None])  # (K, K, w)
    return np.asarray(np.log(distance + floor).mean(-1), dtype=np.float32)
