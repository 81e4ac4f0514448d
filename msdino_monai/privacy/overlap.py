"""Several views of one image bridge each other's gaps: what one view dropped lies inside another view's patches.

Every view is the same picture under its own small affine map, so all patches of two views share one linear map. It is
found by trying: under the right one, many patches of one view fit somewhere inside a patch of the other. Two patches
that fit side by side into the same patch of another view are neighbours, however wide the margin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from msdino_monai.privacy.solver import PairScores

Floats = npt.NDArray[np.float32]

_FLOOR = 1e-5  # squared grey values: what float16 and resampling leave of equal patches without noise
_MIN_SIDE = 3  # pixels of overlap below which nothing is learnt
_CEILING = 14.0  # log-odds beyond which a fit is a fit


@dataclass(frozen=True)
class LinearMap:
    """From pixels of one view to pixels of another, about a patch's centre: turned, then stretched along both axes."""

    turn: float = 0.0
    rows: float = 1.0
    columns: float = 1.0

    @cached_property
    def matrix(self) -> npt.NDArray[np.float64]:
        c, s = np.cos(self.turn), np.sin(self.turn)
        turned = np.diag([self.rows, self.columns]) @ np.array([[c, -s], [s, c]])
        return np.asarray(turned, dtype=np.float64)


@dataclass(frozen=True)
class Registration:
    """How one view's greys and pixels become another's: `log_gamma`, then the linear map."""

    log_gamma: float
    linear: LinearMap

    def greys(self, patches: Floats, others: Floats) -> tuple[Floats, Floats]:
        """Both halfway towards each other, so that no gamma makes all differences small."""
        half = np.float32(np.exp(self.log_gamma / 2))
        return np.power(patches.clip(1e-4, 1), 1 / half), np.power(others.clip(1e-4, 1), half)


def warp(patches: Floats, linear: LinearMap) -> tuple[Floats, Floats]:
    """Patches (K, w, w) of one view as the other view would show them (K, v, v), and which pixels are known (v, v)."""
    width = patches.shape[-1]
    matrix = linear.matrix
    size = 2 * int(np.ceil(np.abs(matrix).sum(1).max() * width / 2)) + width % 2
    at = np.stack(list(np.mgrid[:size, :size]), -1) - (size - 1) / 2
    source = at @ np.linalg.inv(matrix).T  # (v, v, 2), rows and columns about the centre
    known = (np.abs(source) <= (width - 1) / 2 + 1e-6).all(-1)
    grid = torch.from_numpy(source[..., ::-1] * 2 / (width - 1)).float()
    stack = torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32))[None]  # patches as channels: one grid
    moved = F.grid_sample(stack, grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    return moved.numpy() * known, known.astype(np.float32)


def fit_patches(
    patches: Floats,
    others: Floats,
    linear: LinearMap,
    chosen: npt.NDArray[np.int64] | None = None,
    deviation: float = 0.0,
) -> Floats:
    """Log-odds (K, L, O, O) that a patch (of K) lies that many pixels from the centre of another (of L).

    `deviation` is what inversion left wrong of a pixel, in grey values: equal patches differ by twice its square.
    A difference counts by how rare it is among all others at that offset: flat patches fit everywhere and say nothing.
    """
    warped, known = warp(patches if chosen is None else patches[chosen], linear)
    size, width = warped.shape[-1], others.shape[-1]
    reach = (size + width) // 2 - _MIN_SIDE
    base = (size - width) // 2  # the corner of the other patch inside the warped one at offset 0
    steps = np.arange(-reach, reach + 1)
    floor = _FLOOR + 2 * deviation**2
    result = np.zeros((len(warped), len(others), len(steps), len(steps)), dtype=np.float32)
    for i, row in enumerate(steps):
        for j, column in enumerate(steps):
            # Pixel (r, c) of the other patch lies at (r + base - row, c + base - column) of the warped one.
            top, left = base - row, base - column
            r0, r1 = max(0, top), min(size, top + width)
            c0, c1 = max(0, left), min(size, left + width)
            if r1 - r0 < _MIN_SIDE or c1 - c0 < _MIN_SIDE:
                continue
            mask = known[r0:r1, c0:c1].ravel()
            count = mask.sum()
            if count < 3 * _MIN_SIDE:
                continue
            one = warped[:, r0:r1, c0:c1].reshape(len(warped), -1)
            two = others[:, r0 - top : r1 - top, c0 - left : c1 - left].reshape(len(others), -1)
            squares = (one * one).sum(1)[:, None] + ((two * two) @ mask)[None] - 2 * one @ two.T
            result[:, :, i, j] = _rarity(np.log(np.maximum(squares, 0) / count + floor))
    return result


def _rarity(distances: Floats) -> Floats:
    """Log-odds of a fit from log-distances (K, L), were others' distances normal: only the unusually close count."""
    centred = distances - distances.mean(1, keepdims=True)
    spread = np.maximum(distances.std(1, keepdims=True), 0.25)
    close = np.minimum(centred / spread + 1.0, 0.0)
    return np.asarray(close * close / 2, dtype=np.float32)


def register(
    patches: Floats, others: Floats, probes: int = 48, passes: int = 3, deviation: float = 0.0
) -> Registration:
    """The gamma and the linear map under which most of the busiest patches find one place that wants them, too."""
    busiest = np.argsort(-patches.reshape(len(patches), -1).std(1))[:probes].astype(np.int64)

    def agreement(guess: Registration) -> float:
        return _agreement(fit_patches(*guess.greys(patches, others), guess.linear, busiest, deviation))

    best = max((Registration(g, LinearMap()) for g in np.linspace(-0.7, 0.7, 19).tolist()), key=agreement)
    value = agreement(best)
    step = {"log_gamma": 0.06, "turn": 0.07, "rows": 0.1, "columns": 0.1}
    for turn in range(passes):
        for name, width in step.items():
            for change in (-width / 2**turn, width / 2**turn):
                guess = _changed(best, name, change)
                found = agreement(guess)
                if found > value:
                    best, value = guess, found
    return best


def _changed(guess: Registration, name: str, change: float) -> Registration:
    if name == "log_gamma":
        return replace(guess, log_gamma=guess.log_gamma + change)
    return replace(guess, linear=replace(guess.linear, **{name: getattr(guess.linear, name) + change}))


def _agreement(log_odds: Floats) -> float:
    """How often the best place of a patch has no better patch, times how clearly it is the best."""
    count = len(log_odds)
    by_place = log_odds.reshape(count, log_odds.shape[1], -1)
    per_other = by_place.max(2)
    ranked = np.sort(per_other, axis=1)
    best = by_place.reshape(count, -1).argmax(1)
    rivals = by_place.max(0).ravel()[best]  # the best patch for that place
    mutual = float(np.mean(ranked[:, -1] >= rivals))
    return mutual * float((ranked[:, -1] - ranked[:, -2]).mean())


def can_bridge(width: int, patch_size: int) -> bool:
    """Whether what a patch shows is wide enough to lie on two neighbours of another view, unmoved and unscaled."""
    return 2 * (width - _MIN_SIDE) + 1 > patch_size


def bridge(
    patches: Floats, others: Floats, registration: Registration, patch_size: int, deviation: float = 0.0
) -> PairScores:
    """Log-odds that two patches of one view are neighbours, because they lie side by side in a patch of the other."""
    log_odds = fit_patches(*registration.greys(patches, others), registration.linear, deviation=deviation)
    odds = np.expm1(np.minimum(log_odds, _CEILING))
    count = len(odds)
    tolerant = F.max_pool2d(torch.from_numpy(odds.reshape(-1, 1, *odds.shape[2:])), 3, stride=1, padding=1)
    near = tolerant.numpy().reshape(odds.shape)  # offsets are whole pixels, the map is not
    scores = []
    for direction in ((0, patch_size), (patch_size, 0)):
        row, column = np.rint(registration.linear.matrix @ direction).astype(int)
        if max(abs(row), abs(column)) >= odds.shape[-1]:  # small patches: no two of a view meet in one of the other
            scores.append(np.zeros((count, count), dtype=np.float32))
            continue
        one, two = _overlapping(odds, near, int(row), int(column))
        scores.append(np.log1p(one.reshape(count, -1) @ two.reshape(count, -1).T))
    return PairScores(*scores)


def _overlapping(odds: Floats, near: Floats, row: int, column: int) -> tuple[Floats, Floats]:
    """Cut both so that `near` is seen (row, column) further on than `odds`."""
    size = odds.shape[-1]

    def cut(step: int) -> tuple[slice, slice]:
        return slice(max(0, -step), size - max(0, step)), slice(max(0, step), size - max(0, -step))

    (r0, r1), (c0, c1) = cut(row), cut(column)
    return np.ascontiguousarray(odds[:, :, r0, c0]), np.ascontiguousarray(near[:, :, r1, c1])
