"""A jigsaw solver: tokens back into the frame, from scores of pairs and (if known) of places.

Greedy joins like Kruskal's spanning tree (Gallagher, CVPR 2012) make rigid pieces, the pieces go into the frame, and a
large-neighbourhood search refines: cells that do not touch can all be filled anew at once, optimally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Cells = dict[int, tuple[int, int]]  # token: (row, column), relative to its piece

_CANDIDATES = 12  # joins tried per token and side
_LAYOUTS = 5  # ways tried to lay pieces into the frame
_FLOOR = -8.0  # no pair is so unlikely that one of them outweighs a whole neighbourhood


@dataclass(frozen=True)
class PairScores:
    """Log-odds (K, K) that token j lies directly right of, or directly below, token i."""

    right: Floats
    down: Floats

    def __post_init__(self) -> None:
        if self.right.shape != self.down.shape or self.right.ndim != 2 or len(set(self.right.shape)) != 1:
            raise ValueError(f"scores must be two (K, K) matrices, got {self.right.shape} and {self.down.shape}.")

    def competing(self, temperature: float = 1.0) -> PairScores:
        """Every score relative to its rivals: one token has one right neighbour at most, and is that of one at most."""
        return PairScores(_competing(self.right, temperature), _competing(self.down, temperature))


def _competing(scores: Floats, temperature: float) -> Floats:
    scaled = scores.astype(np.float64) / temperature
    np.fill_diagonal(scaled, -np.inf)  # nothing is its own neighbour
    by_row = scaled - _log_sum(scaled, 1)
    by_column = scaled - _log_sum(scaled, 0)
    relative = (by_row + by_column) / 2 + np.log(max(2, len(scores) - 1))
    return np.asarray(np.maximum(relative, _FLOOR), dtype=np.float32)


def _log_sum(scores: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    largest = scores.max(axis=axis, keepdims=True)
    total: npt.NDArray[np.float64] = largest + np.log(np.exp(scores - largest).sum(axis=axis, keepdims=True))
    return total


def solve(
    scores: PairScores,
    grid: tuple[int, int],
    places: Floats | None = None,
    *,
    seed: int = 0,
    starts: int = 5,
    rounds: int = 6,
    sweeps: int = 60,
) -> Integers:
    """The cell (K,), row by row, of every token: the best arrangement found.

    Args:
        scores: pair scores of the K tokens; K may be below the number of cells.
        grid: rows and columns of the frame.
        places: log-odds (K, N) of each token's cell, if the attacker has an idea of them.
        starts: greedy arrangements tried; all but the first join at a little random.
        rounds: how often the best arrangement is broken at its weak joins and put together again.
        sweeps: refinements after each.
    """
    count, cells = len(scores.right), grid[0] * grid[1]
    if count > cells:
        raise ValueError(f"{count} tokens do not fit {grid[0]} x {grid[1]} cells.")
    frame = _Frame(scores, grid, np.zeros((count, cells), np.float32) if places is None else places)
    generator = np.random.default_rng(seed)
    plans = [frame.place(join_greedily(_shaken(scores, generator, turn), grid), generator) for turn in range(starts)]
    if places is not None:
        plans.append(frame.place([], generator))
    plans = [frame.refine(board, generator, sweeps) for board in plans]
    best = max(plans, key=frame.value)
    for turn in range(rounds):
        # Break the best one so far, mildly and thoroughly by turns; a thorough break leaves few wrong joins behind.
        board = frame.place(frame.pieces(best, both=turn % 2 == 1), generator)
        best = max(best, frame.best_roll(frame.refine(board, generator, sweeps)), key=frame.value)
    best = frame.refine(frame.best_roll(best), generator, sweeps, temperature=0.0)
    cell_of = np.empty(count + 1, dtype=np.int64)
    cell_of[best] = np.arange(cells)
    return cell_of[:count]


def _shaken(scores: PairScores, generator: np.random.Generator, turn: int) -> PairScores:
    """The scores as they are at first, then with some noise: another order of joins."""
    if turn == 0:
        return scores
    right, down = (m + generator.normal(0, 0.5, m.shape).astype(np.float32) for m in (scores.right, scores.down))
    return PairScores(right, down)


def join_greedily(scores: PairScores, grid: tuple[int, int]) -> list[Cells]:
    """Pieces made by the most certain joins first; a join that overlaps or outgrows the frame is left out."""
    count = len(scores.right)
    pieces: dict[int, Cells] = {token: {token: (0, 0)} for token in range(count)}
    piece_of = list(range(count))
    for first, second, row, column in _likely_joins(scores):
        home, guest = piece_of[first], piece_of[second]
        if home == guest:
            continue
        at, other = pieces[home][first], pieces[guest][second]
        shift = at[0] + row - other[0], at[1] + column - other[1]
        moved = {token: (r + shift[0], c + shift[1]) for token, (r, c) in pieces[guest].items()}
        if _fits(pieces[home], moved, grid):
            pieces[home].update(moved)
            del pieces[guest]
            for token in moved:
                piece_of[token] = home
    return sorted(pieces.values(), key=len, reverse=True)


def _likely_joins(scores: PairScores) -> Iterator[tuple[int, int, int, int]]:
    """(first, second, row step, column step), best first."""
    found = []
    for matrix, step in ((scores.right, (0, 1)), (scores.down, (1, 0))):
        width = min(_CANDIDATES, len(matrix))
        by_row = np.argpartition(-matrix, width - 1, axis=1)[:, :width]
        by_column = np.argpartition(-matrix, width - 1, axis=0)[:width].T
        rows = np.repeat(np.arange(len(matrix)), width)
        pairs = np.unique(np.r_[np.c_[rows, by_row.ravel()], np.c_[by_column.ravel(), rows]], axis=0)
        found.append(np.c_[matrix[pairs[:, 0], pairs[:, 1]], pairs, np.broadcast_to(step, (len(pairs), 2))])
    joins = np.concatenate(found)
    joins = joins[(joins[:, 1] != joins[:, 2]) & (joins[:, 0] > 0)]
    for _, first, second, row, column in joins[np.argsort(-joins[:, 0], kind="stable")].tolist():
        yield int(first), int(second), int(row), int(column)


def _fits(home: Cells, moved: Cells, grid: tuple[int, int]) -> bool:
    cells = list(home.values())
    if not set(cells).isdisjoint(moved.values()):
        return False
    rows, columns = zip(*cells, *moved.values(), strict=True)
    return bool(max(rows) - min(rows) < grid[0] and max(columns) - min(columns) < grid[1])


class _Frame:
    """The grid of cells; a board (N,) names the token in each cell, K for none."""

    def __init__(self, scores: PairScores, grid: tuple[int, int], places: Floats) -> None:
        self.grid, self.count = grid, len(scores.right)
        # An empty cell (token K), and what lies beyond the frame (cell N), neither attract nor repel.
        self.right, self.down = (np.pad(matrix, (0, 1)) for matrix in (scores.right, scores.down))
        self.places = np.pad(places.astype(np.float32), ((0, 1), (0, 0)))
        self.sides = _neighbours(grid)  # (4, N): left, right, up, down

    def value(self, board: Integers) -> float:
        boards = board.reshape(self.grid)
        pairs = self.right[boards[:, :-1], boards[:, 1:]].sum() + self.down[boards[:-1], boards[1:]].sum()
        return float(pairs + self.places[board, np.arange(board.size)].sum())

    def fill_scores(self, board: Integers, tokens: Integers, cells: Integers) -> Floats:
        """What each token (T) would add in each cell (C), given all others: (T, C)."""
        beyond = np.append(board, self.count)
        left, right, up, down = (beyond[side[cells]] for side in self.sides)
        scores = self.right[left[:, None], tokens] + self.down[up[:, None], tokens]  # (C, T)
        gathered: Floats = scores.T + self.right[tokens[:, None], right] + self.down[tokens[:, None], down]
        return gathered + self.places[tokens[:, None], cells]

    def refine(
        self, board: Integers, generator: np.random.Generator, sweeps: int, temperature: float = 1.0
    ) -> Integers:
        """Fill sets of cells that do not touch anew, a little at random first, then each to its optimum."""
        sets = _untouching(self.grid)
        best, best_value = board, self.value(board)
        board = board.copy()
        for sweep in range(sweeps):
            cells = sets[int(generator.integers(len(sets)))]
            tokens = board[cells]
            scores = self.fill_scores(board, tokens, cells)
            heat = temperature * max(0.0, 1 - 1.5 * sweep / sweeps)
            if heat:
                scores = scores + np.float32(heat) * generator.gumbel(size=scores.shape).astype(np.float32)
            rows, columns = linear_sum_assignment(scores, maximize=True)
            board[cells[columns]] = tokens[rows]
            value = self.value(board)
            if value > best_value:
                best, best_value = board.copy(), value
        return best

    def pieces(self, board: Integers, both: bool = False) -> list[Cells]:
        """The board broken at every join that no side likes best, or (`both`) that either would have otherwise."""
        boards = board.reshape(self.grid)
        links: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for matrix, step in ((self.right, (0, 1)), (self.down, (1, 0))):
            ahead, behind = matrix[:-1, :-1].argmax(1), matrix[:-1, :-1].argmax(0)
            first = boards[: self.grid[0] - step[0], : self.grid[1] - step[1]]
            second = boards[step[0] :, step[1] :]
            known = (first < self.count) & (second < self.count)
            one, two = np.minimum(first, self.count - 1), np.minimum(second, self.count - 1)
            wanted = (ahead[one] == two, behind[two] == one)
            sure = known & (wanted[0] & wanted[1] if both else wanted[0] | wanted[1]) & (matrix[one, two] > 0)
            links += [((r, c), (r + step[0], c + step[1])) for r, c in np.argwhere(sure).tolist()]
        return _components(boards, links, self.count)

    def place(self, pieces: Sequence[Cells], generator: np.random.Generator) -> Integers:
        """The best of some ways to lay the pieces down: where the first one goes decides whether the others fit."""
        tries = 1 if not pieces or len(pieces[0]) == 1 else _LAYOUTS
        return max((self._place_once(pieces, generator) for _ in range(tries)), key=self.value)

    def _place_once(self, pieces: Iterable[Cells], generator: np.random.Generator) -> Integers:
        """Pieces, largest first, where they score best, by lot if nothing tells; what does not fit fills the rest."""
        rows, columns = self.grid
        board = np.full(rows * columns, self.count, dtype=np.int64)
        loose = np.ones(self.count, dtype=bool)
        for piece in pieces:
            if len(piece) == 1:
                continue
            tokens = np.fromiter(piece, dtype=np.int64)
            at = np.array(list(piece.values()))
            at -= at.min(0)
            height, width = at.max(0) + 1
            corners = np.stack(list(np.mgrid[: rows - height + 1, : columns - width + 1]), -1).reshape(-1, 1, 2)
            cells = ((at + corners) @ (columns, 1)).astype(np.int64)  # (corners, tokens)
            cells = cells[(board[cells] == self.count).all(1)]
            if not len(cells):
                continue
            scores = self.fill_scores(board, tokens, np.arange(board.size))  # (T, N)
            fit = scores[np.arange(len(tokens)), cells].sum(1)
            cell = cells[int(generator.choice(np.flatnonzero(fit >= fit.max() - 1e-4)))]
            board[cell], loose[tokens] = tokens, False
        return self._fill(board, np.flatnonzero(loose))

    def _fill(self, board: Integers, tokens: Integers) -> Integers:
        """Loose tokens into free cells, those with most neighbours first, so that each finds some."""
        while len(tokens):
            free = np.flatnonzero(board == self.count)
            beyond = np.append(board, self.count)
            touched = (beyond[self.sides[:, free]] < self.count).sum(0)
            cells = free[touched == touched.max()] if touched.max() else free
            cells = cells[: max(len(tokens), 1)] if len(cells) > len(tokens) else cells
            rows, columns = linear_sum_assignment(self.fill_scores(board, tokens, cells), maximize=True)
            board[cells[columns]] = tokens[rows]
            tokens = np.delete(tokens, rows)
        return board

    def best_roll(self, board: Integers) -> Integers:
        """The board moved along both axes, what leaves on one side coming in on the other: where it scores best."""
        boards = board.reshape(self.grid)
        rolled = [
            np.roll(boards, (row, column), (0, 1)).ravel()
            for row in range(self.grid[0])
            for column in range(self.grid[1])
        ]
        return max(rolled, key=self.value)


def _components(boards: Integers, links: list[tuple[tuple[int, int], tuple[int, int]]], empty: int) -> list[Cells]:
    near: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for one, two in links:
        near.setdefault(one, []).append(two)
        near.setdefault(two, []).append(one)
    seen: set[tuple[int, int]] = set()
    pieces = []
    for start in near:
        if start in seen:
            continue
        stack, piece = [start], Cells()
        seen.add(start)
        while stack:
            cell = stack.pop()
            if boards[cell] != empty:
                piece[int(boards[cell])] = cell
            fresh = [other for other in near[cell] if other not in seen]
            seen.update(fresh)
            stack += fresh
        pieces.append(piece)
    return sorted(pieces, key=len, reverse=True)


@lru_cache(maxsize=8)
def _neighbours(grid: tuple[int, int]) -> Integers:
    """Cells (4, N) left, right, above and below each cell; N stands for beyond the frame."""
    beyond = grid[0] * grid[1]
    padded = np.pad(np.arange(beyond).reshape(grid), 1, constant_values=beyond)
    sides = padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]
    return np.stack([side.ravel() for side in sides])


@lru_cache(maxsize=8)
def _untouching(grid: tuple[int, int], sets: int = 48) -> tuple[Integers, ...]:
    """Random maximal sets of cells no two of which share a side."""
    generator = np.random.default_rng(0)
    sides = _neighbours(grid)
    found = []
    for _ in range(sets):
        free = np.ones(grid[0] * grid[1] + 1, dtype=bool)
        chosen = []
        for cell in generator.permutation(grid[0] * grid[1]):
            if free[cell]:
                chosen.append(cell)
                free[sides[:, cell]] = False
        found.append(np.sort(np.array(chosen, dtype=np.int64)))
    return tuple(found)
