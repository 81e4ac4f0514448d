"""How much of the jigsaw was solved: neighbours, places and the largest piece that is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

Integers = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]  # (pairs, 3): first class, second class, direction

_GUESSES = 64  # random arrangements that measure chance
_FEWEST_PAIRS = 0.1  # of those whose tokens were kept; an image with fewer that count says nothing
_LEAST_PAIRS = 4  # nor does one with less than that


@dataclass(frozen=True)
class AssemblyScore:
    """Shares of one image; `chance` and `chance_place` are neighbours and places of a random arrangement.

    Patches whose visible pixels differ by no more than one of 255 greys (black collimation, the frame round a small
    image) are interchangeable: nobody can tell them apart, and nothing is learnt by placing them. So only patches that
    look like no other count, and only pairs of those.
    """

    neighbours: float
    places: float
    largest_piece: float
    chance: float
    chance_place: float
    pairs: int


def patch_classes(patches: npt.NDArray[np.floating[Any]], tolerance: float = 1 / 255) -> Integers:
    """A class (N,) for each patch (N, P): the first patch from which it differs nowhere by more than `tolerance`."""
    classes = np.full(len(patches), -1, dtype=np.int64)
    for first, patch in enumerate(patches):
        if classes[first] < 0:
            alike = np.abs(patches - patch).max(1) <= tolerance
            classes[alike & (classes < 0)] = first
    return classes


def score_assembly(
    cells: Integers, order: Integers, classes: Integers, grid: tuple[int, int], *, seed: int = 0
) -> AssemblyScore:
    """Judge an arrangement.

    Args:
        cells: where the solver put each of the K tokens.
        order: where each truly lies, row by row.
        classes: (N,) of `patch_classes`, by true cell.
    """
    kinds = _telling(classes[order])  # (K,)
    truth = _pairs(_board(order, kinds, grid))
    found = _pairs(_board(cells, kinds, grid))
    generator = np.random.default_rng(seed)
    shuffled = [_pairs(_board(generator.permutation(order), kinds, grid)) for _ in range(_GUESSES)]
    asked = kinds >= 0
    kept = len(_pairs(_board(order, np.arange(len(order)), grid)))
    few = len(truth) < max(_LEAST_PAIRS, _FEWEST_PAIRS * kept)
    return AssemblyScore(
        neighbours=float("nan") if few else _shared(found, truth),
        places=float(np.mean((cells == order)[asked])) if asked.any() else float("nan"),
        largest_piece=_largest_piece(cells, order, kinds, grid),
        chance=float(np.mean([_shared(pairs, truth) for pairs in shuffled])),
        chance_place=1 / len(classes),
        pairs=len(truth),
    )


def _telling(kinds: Integers) -> Integers:
    """The classes of tokens that have no twin; -1 for all others."""
    _, which, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    return np.where(counts[which.reshape(-1)] == 1, kinds, -1)


def top_match(scores: npt.NDArray[np.floating[Any]], order: Integers, classes: Integers, columns: int) -> float:
    """Share of tokens whose best-scoring right neighbour is the true one, before any assembly; twins are not asked."""
    kinds = _telling(classes[order])
    token_at = np.full(len(classes), -1, dtype=np.int64)
    token_at[order] = np.arange(len(order))
    has = (order % columns) < columns - 1
    right = np.where(has, token_at[np.minimum(order + 1, len(classes) - 1)], -1)
    masked = scores.copy()
    np.fill_diagonal(masked, -np.inf)
    best = masked.argmax(1)
    asked = (right >= 0) & (kinds >= 0) & (kinds[right] >= 0)
    return float(np.mean(best[asked] == right[asked])) if asked.any() else float("nan")


def _board(cells: Integers, kinds: Integers, grid: tuple[int, int]) -> Integers:
    board = np.full(grid[0] * grid[1], -1, dtype=np.int64)
    board[cells] = kinds
    return board.reshape(grid)


def _pairs(board: Integers) -> Pairs:
    """Classes side by side, but for twins and empty cells."""
    across = np.stack([board[:, :-1], board[:, 1:], np.zeros_like(board[:, 1:])], -1).reshape(-1, 3)
    down = np.stack([board[:-1], board[1:], np.ones_like(board[1:])], -1).reshape(-1, 3)
    pairs = np.concatenate([across, down])
    return np.asarray(pairs[(pairs[:, :2] >= 0).all(1)], dtype=np.int64)


def _shared(found: Pairs, truth: Pairs) -> float:
    """Share of the true pairs that were found."""
    if not len(truth):
        return float("nan")
    return len({tuple(pair) for pair in found.tolist()} & {tuple(pair) for pair in truth.tolist()}) / len(truth)


def _largest_piece(cells: Integers, order: Integers, kinds: Integers, grid: tuple[int, int]) -> float:
    """Share of the tokens without twins in the largest piece all of whose joins are right."""
    token_at = np.full(grid[0] * grid[1], -1, dtype=np.int64)
    token_at[cells] = np.arange(len(cells))
    boards = token_at.reshape(grid)
    truth = {tuple(pair) for pair in _pairs(_board(order, kinds, grid)).tolist()}
    links = []
    for first, second, direction in ((boards[:, :-1], boards[:, 1:], 0), (boards[:-1], boards[1:], 1)):
        for one, two in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            if one >= 0 and two >= 0 and (kinds[one], kinds[two], direction) in truth:
                links.append((one, two))
    rows, columns = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(cells), len(cells)))
    _, labels = connected_components(graph, directed=False)
    asked = kinds >= 0
    return float(np.bincount(labels[asked]).max() / asked.sum()) if asked.any() else float("nan")
