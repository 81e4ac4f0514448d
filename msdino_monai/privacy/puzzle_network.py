"""A learnt jigsaw attacker: trained on auxiliary images to see neighbours, and where in the chest a token lies.

For each direction it starts at canonical correlations of true neighbours, and learns from there which of all tokens of
the image is the true neighbour (a softmax over rivals). The places come from the token and the pooled set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.simulation import SimulatedExport
from msdino_monai.privacy.solver import PairScores

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_TWINS = 1e-3  # spread of visible pixels under which a patch is flat, its neighbour anybody's guess


class PairTower(nn.Module):
    """Scores (K, L) that a token of L follows a token of K in one direction."""

    def __init__(self, first: Doubles, second: Doubles, components: int = 32, width: int = 64) -> None:
        super().__init__()
        one, two, correlation = canonical_correlations(first, second)
        components = min(components, len(correlation))
        sharp = 1 / np.sqrt(1 - correlation[:components] ** 2 + 1e-4)  # what is sure weighs most
        self.register_buffer("means", _tensor(np.stack([first.mean(0), second.mean(0)])))
        self.register_buffer("whitening", _tensor(np.stack([one, two])))
        self.register_buffer("odds", _tensor(correlation / (1 - correlation**2 + 1e-6)))
        self.register_buffer("penalty", _tensor(correlation**2 / (1 - correlation**2 + 1e-6) / 2))
        self.ahead, self.behind = (nn.Parameter(_tensor(basis[:, :components] * sharp)) for basis in (one, two))
        dims = first.shape[1]
        self.first = nn.Sequential(nn.Linear(dims, 128), nn.GELU(), nn.Linear(128, 2 * width))
        self.second = nn.Sequential(nn.Linear(dims, 128), nn.GELU(), nn.Linear(128, 2 * width))
        self.compare = nn.Linear(2 * components, width)
        self.judge = nn.Sequential(nn.GELU(), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, 1))
        self.trust = nn.Parameter(torch.tensor(0.1))

    means: torch.Tensor
    whitening: torch.Tensor
    odds: torch.Tensor
    penalty: torch.Tensor

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        one, two = first - self.means[0], second - self.means[1]
        x, y = one @ self.whitening[0], two @ self.whitening[1]
        gaussian = (x * self.odds) @ y.T - (x**2 @ self.penalty)[:, None] - (y**2 @ self.penalty)[None]
        difference = torch.asinh(2 * ((one @ self.ahead)[:, None] - (two @ self.behind)[None]))  # (K, L, R)
        (compared_one, seen_one), (compared_two, seen_two) = (
            tower(z.clamp(-8, 8)).chunk(2, -1) for tower, z in ((self.first, x), (self.second, y))
        )
        hidden = self.compare(torch.cat([difference, difference.abs()], -1))
        judged = self.judge(hidden + compared_one[:, None] + compared_two[None]).squeeze(-1)
        scores: torch.Tensor = self.trust * gaussian.clamp_min(-60) + judged + seen_one @ seen_two.T / 8
        return scores


class PlaceNetwork(nn.Module):
    """Logits (K, N) of each token's cell, from the token and the whole set."""

    def __init__(self, tokens: torch.Tensor, cells: int) -> None:
        super().__init__()
        self.register_buffer("mean", tokens.mean(0))
        self.register_buffer("spread", tokens.std(0) + 1e-3)
        self.token = nn.Sequential(nn.Linear(tokens.shape[1], 256), nn.GELU(), nn.Linear(256, 128))
        self.context = nn.Linear(256, 128)
        self.place = nn.Sequential(nn.GELU(), nn.Linear(128, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, cells))

    mean: torch.Tensor
    spread: torch.Tensor

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.token((tokens - self.mean) / self.spread)
        pooled = torch.cat([hidden.mean(-2), hidden.amax(-2)], -1)
        logits: torch.Tensor = self.place(hidden + self.context(pooled).unsqueeze(-2))
        return logits


class PuzzleNetwork(nn.Module):
    """Both directions, and the places."""

    knowledge = Knowledge(auxiliary_images=True)

    def __init__(self, tokens: Floats, grid: tuple[int, int]) -> None:
        super().__init__()
        dims = tokens.shape[-1]
        board = tokens.reshape(-1, *grid, dims).astype(np.float64)
        self.right = PairTower(board[:, :, :-1].reshape(-1, dims), board[:, :, 1:].reshape(-1, dims))
        self.down = PairTower(board[:, :-1].reshape(-1, dims), board[:, 1:].reshape(-1, dims))
        self.places = PlaceNetwork(torch.from_numpy(tokens.reshape(-1, dims)), grid[0] * grid[1])

    @torch.inference_mode()
    def scores(self, tokens: Floats) -> tuple[PairScores, Floats]:
        """Pair scores, and log-odds (K, N) of places, for one set (K, D)."""
        given = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))
        logits: torch.Tensor = F.log_softmax(self.places(given), dim=-1)
        logits = logits + float(np.log(logits.shape[-1]))
        pairs = PairScores(self.right(given, given).numpy(), self.down(given, given).numpy())
        return pairs.competing(), logits.clamp_min(-8).numpy()


def train_puzzle_network(
    export: SimulatedExport, grid: tuple[int, int], *, steps: int = 500, learning_rate: float = 2e-3, seed: int = 0
) -> PuzzleNetwork:
    """Train on one image a step; the same seed gives the same network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PuzzleNetwork(export.tokens, grid)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
        tokens = torch.from_numpy(export.tokens)
        for step in range(steps):
            image = tokens[int(torch.randint(len(tokens), (1,), generator=generator))]
            loss = _loss(network, image, grid, generator, backwards=step % 2 == 1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def _loss(
    network: PuzzleNetwork,
    image: torch.Tensor,
    grid: tuple[int, int],
    generator: torch.Generator,
    *,
    backwards: bool,
    anchors: int = 56,
) -> torch.Tensor:
    """Who comes next (or came before), asked for some tokens in both directions; and where each token lies."""
    cells = torch.arange(grid[0] * grid[1])
    board = cells.reshape(grid)
    unique = _unique(image)
    total: torch.Tensor = 0.5 * F.cross_entropy(network.places(image)[unique], cells[unique])
    for tower, one, two in (
        (network.right, board[:, :-1].flatten(), board[:, 1:].flatten()),
        (network.down, board[:-1].flatten(), board[1:].flatten()),
    ):
        asked, wanted = (two, one) if backwards else (one, two)
        known = unique[wanted].nonzero().squeeze(1)
        known = known[torch.randperm(len(known), generator=generator)[:anchors]]
        asked, wanted = asked[known], wanted[known]
        scores = tower(image, image[asked]).T if backwards else tower(image[asked], image)
        itself = F.one_hot(asked, len(image)) * 1e4
        total = total + F.cross_entropy(scores - itself, wanted)
    return total


def _unique(image: torch.Tensor) -> torch.Tensor:
    """Tokens (N,) that have no twin."""
    distance = torch.cdist(image, image) / image.shape[1] ** 0.5
    distance.fill_diagonal_(torch.inf)
    unique: torch.Tensor = distance.amin(1) > _TWINS
    return unique


def canonical_correlations(first: Doubles, second: Doubles, ridge: float = 1e-6) -> tuple[Doubles, Doubles, Doubles]:
    """Bases (D, D) in which both sides are white and agree one by one, and how much, falling."""
    one, two = first - first.mean(0), second - second.mean(0)
    bases = []
    for side in (one, two):
        covariance = side.T @ side / len(side)
        values, vectors = np.linalg.eigh(covariance + ridge * (covariance.trace() + 1e-9) * np.eye(len(covariance)))
        bases.append(vectors / np.sqrt(values))
    left, correlation, right = np.linalg.svd(bases[0].T @ (one.T @ two / len(one)) @ bases[1])
    return bases[0] @ left, bases[1] @ right.T, np.clip(correlation, 0, 1 - 1e-7)


def _tensor(array: Doubles) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
