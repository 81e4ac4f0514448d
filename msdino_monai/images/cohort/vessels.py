"""Branching tubes that fill the lungs: pulmonary vessels, and the bronchi inside a consolidation."""

from __future__ import annotations

import numpy as np

from msdino_monai.images.cohort.primitives import Array, Grid, Mask, tubes
from msdino_monai.images.cohort.thorax import LEFT_LUNG, RIGHT_LUNG, Thorax

_GENERATIONS = 8
_STEP = 4  # pixels between the places a twig may end at


def hilum(thorax: Thorax, side: int) -> tuple[float, float]:
    """Where a lung's vessels enter; the left a little higher."""
    height = 0.34 * thorax.patient.dome
    shift = 8.0 * thorax.posture.turn
    return (-31.0 + shift, height + 40.0) if side == RIGHT_LUNG else (34.0 + shift, height + 28.0)


def pulmonary_vessels(thorax: Thorax, rng: np.random.Generator) -> Array:
    """Thickness of the vessels of both lungs."""
    total = np.zeros(thorax.grid.shape)
    for side in (RIGHT_LUNG, LEFT_LUNG):
        total += _tree(thorax, side, thorax.side(side), rng, 6.6 * thorax.patient.vessels, _GENERATIONS)
        total += _tree(thorax, side, thorax.side(side), rng, 4.6 * thorax.patient.vessels, _GENERATIONS - 1)
    return total


def bronchi(thorax: Thorax, side: int, region: Mask, rng: np.random.Generator) -> Array:
    """Thickness of the air in the bronchi that lead into a region."""
    return _tree(thorax, side, region, rng, 3.4, 5)


def _tree(thorax: Thorax, side: int, region: Mask, rng: np.random.Generator, radius: float, generations: int) -> Array:
    """A tapering tree from the hilum whose twigs end evenly all over the region."""
    leaves = _scatter(thorax, region, rng, 2**generations)
    if leaves is None:
        return np.zeros(thorax.grid.shape)
    root_x, root_y = hilum(thorax, side)
    node = np.array([[root_x, root_y, 0.0]])
    heading = np.zeros((1, 3))
    start, stop, first, last = [], [], [], []
    groups = leaves[None]  # (branches, leaves of each, 3)
    for generation in range(generations + 1):
        count = groups.shape[0]
        share = 0.34 + 0.09 * generation if generation < generations else 1.0
        goal = node + share * (groups.mean(axis=1) - node) if generation else node
        thick = radius * 2.0 ** (-generation / 2.55) * rng.uniform(0.88, 1.12, count)
        bend = node + 0.45 * heading + 0.5 * (goal - node)
        middle = 0.5 * bend + 0.25 * (node + goal)  # the half-way point of a quadratic curve
        if generation:
            start += [node, middle]
            stop += [middle, goal]
            first += [thick * 1.06, thick * 0.97]
            last += [thick * 0.97, thick * 0.84]
        heading = goal - middle
        if generation < generations:
            groups = _split(groups)
            node, heading = np.repeat(goal, 2, axis=0), np.repeat(heading, 2, axis=0)
    return _draw(thorax.grid, *(np.concatenate(part) for part in (start, stop, first, last)))


def _draw(grid: Grid, start: Array, stop: Array, first: Array, last: Array) -> Array:
    flat = np.hypot(*(stop - start)[:, :2].T)
    stretch = np.sqrt(1.0 + np.minimum(((stop - start)[:, 2] / np.maximum(flat, 1.0)) ** 2, 3.0))
    return tubes(grid, start[:, :2], stop[:, :2], first, last, stretch)


def _split(groups: Array) -> Array:
    """Halve each group of leaves along its longer side."""
    spread = groups.max(axis=1) - groups.min(axis=1)
    axis = np.argmax(spread, axis=1)
    key = np.take_along_axis(groups, axis[:, None, None], axis=2)[:, :, 0]
    order = np.argsort(key, axis=1, kind="stable")
    ordered = np.take_along_axis(groups, order[:, :, None], axis=1)
    return np.asarray(ordered.reshape(2 * groups.shape[0], -1, 3))


def _scatter(thorax: Thorax, region: Mask, rng: np.random.Generator, count: int) -> Array | None:
    """Places all over a region, deeper where the lung is thicker."""
    picks = rng.random((count, 3))
    rows, columns = np.nonzero(region[::_STEP, ::_STEP])
    if rows.size == 0:
        return None
    chosen = np.minimum((picks[:, 0] * rows.size).astype(int), rows.size - 1)
    rows, columns = rows[chosen] * _STEP, columns[chosen] * _STEP
    depth = thorax.lung[rows, columns] * 0.35 * (2.0 * picks[:, 1] - 1.0)
    return np.stack([thorax.grid.x[rows, columns], thorax.grid.y[rows, 0], depth], axis=1)
