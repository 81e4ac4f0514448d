"""The jigsaw attack: invert single patches, score how they fit together, put them back in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.privacy.edge import score_edges
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import PatchPrior, invert_with_prior, noise_variance
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.overlap import bridge, register
from msdino_monai.privacy.placement import place_by_prior
from msdino_monai.privacy.solver import PairScores, solve

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Assembly:
    """One view put together: the cell (K,) and the pixels (K, p, p) of each token, and the scores that were used."""

    cells: Integers
    patches: Floats
    scores: PairScores

    def reordered(self, order: Integers) -> Assembly:
        """The same arrangement of the same tokens, named in another order."""
        right, down = (matrix[np.ix_(order, order)] for matrix in (self.scores.right, self.scores.down))
        return Assembly(self.cells[order], self.patches[order], PairScores(right, down))


class PuzzleScorer(Protocol):
    """Somebody who knows other radiographs: a `PuzzleNetwork`, a `GaussianPuzzle`."""

    @property
    def knowledge(self) -> Knowledge: ...

    def scores(self, tokens: Floats) -> tuple[PairScores, Floats]:
        """Pair scores, and log-odds (K, N) of places, for one set (K, D)."""


@dataclass(frozen=True)
class Witnesses:
    """Several scorers heard as one: what they say of pairs and of places adds up."""

    scorers: tuple[PuzzleScorer, ...]
    knowledge = Knowledge(auxiliary_images=True)

    def scores(self, tokens: Floats) -> tuple[PairScores, Floats]:
        pairs, places = zip(*(scorer.scores(tokens) for scorer in self.scorers), strict=True)
        return combine(pairs), np.sum(places, axis=0)


@dataclass(frozen=True)
class JigsawAttack:
    """Attacks the views (V, K, D) of one image; the order the export left the tokens in changes nothing.

    The tokens of every view are sorted first: the same set of tokens gives the same arrangement, bit for bit.

    Args:
        embedder: rebuilt from the manifest.
        noise, dtype: the options the manifest names.
        prior: of patches; without auxiliary images that of any picture.
        scorer: fitted to auxiliary images, or none.
        with_edges: let the edges of inverted patches speak, too.
        with_places: let the scorer's idea of places help; it errs where the auxiliary images are of another kind.
        all_views: let the other views bridge the gaps of the first.
    """

    embedder: KnownEmbedder
    noise: float = 0.0
    dtype: str = "float16"
    prior: PatchPrior | None = None
    scorer: PuzzleScorer | None = None
    with_edges: bool = True
    with_places: bool = True
    all_views: bool = True
    seed: int = 0

    @property
    def knowledge(self) -> Knowledge:
        auxiliary = self.scorer is not None or (self.prior is not None and self.prior.knowledge.auxiliary_images)
        return Knowledge(auxiliary_images=auxiliary, all_views=self.all_views)

    def __call__(self, views: npt.NDArray[np.floating[Any]], bridges: Sequence[PairScores] | None = None) -> Assembly:
        """Put the first view together; `bridges` are those of these views, where somebody has them already."""
        with one_thread():
            tokens = np.asarray(views, dtype=np.float32)
            return self._attack(_sorted(tokens), bridges).reordered(np.argsort(_order(tokens[0])))

    def bridges(self, views: npt.NDArray[np.floating[Any]]) -> list[PairScores]:
        """What each other view says of the sorted first one's pairs: most of the work, the same for any network."""
        with one_thread():
            return self._bridges(_sorted(np.asarray(views, dtype=np.float32)))

    def _bridges(self, views: Floats) -> list[PairScores]:
        variance = noise_variance(views, self.noise, self.dtype)
        prior = self.prior or PatchPrior.smooth(self.embedder.patch_size)
        bare = [place_by_prior(view, self.embedder, prior, variance)[1] for view in views]
        pixels, *others = (invert_with_prior(each, self.embedder, prior, variance) for each in bare)
        size, left = self.embedder.patch_size, self._deviation(prior, variance)
        found = [register(pixels, other, deviation=left) for other in others]
        return [bridge(pixels, other, each, size, left).competing() for other, each in zip(others, found, strict=True)]

    def _attack(self, views: Floats, bridges: Sequence[PairScores] | None) -> Assembly:
        variance = noise_variance(views, self.noise, self.dtype)
        prior = self.prior or PatchPrior.smooth(self.embedder.patch_size)
        places, plain = place_by_prior(views[0], self.embedder, prior, variance)
        pixels = invert_with_prior(plain, self.embedder, prior, variance)
        evidence = []
        if self.with_edges or self.scorer is None:
            evidence.append(score_edges(pixels, self.embedder.margin, self._deviation(prior, variance)))
        if self.scorer is not None:
            learnt, places_learnt = self.scorer.scores(views[0])
            evidence.append(learnt)
            if self.with_places:
                places = places_learnt if places is None else places + places_learnt
        if self.all_views:
            evidence += self._bridges(views) if bridges is None else bridges
        scores = combine(evidence)
        cells = solve(scores, self.embedder.grid, places, seed=self.seed)
        if places is not None and self.embedder.codes.any():
            plain = views[0] - self.embedder.codes[cells].astype(np.float32)
        whole = invert_with_prior(plain, self.embedder, prior, variance, whole=True)
        return Assembly(cells, whole, scores)

    def _deviation(self, prior: PatchPrior, variance: float) -> float:
        """What the inversion leaves wrong of a pixel, on average."""
        shown, matrix = self.embedder.visible, self.embedder.matrix
        inner = prior.covariance[np.ix_(shown, shown)]
        spread = matrix @ inner @ matrix.T + variance * np.eye(len(matrix))
        left = inner - inner @ matrix.T @ np.linalg.solve(spread, matrix @ inner)
        return float(np.sqrt(max(0.0, left.trace() / len(left)))) / 2

    def alone(self) -> JigsawAttack:
        """The same attack on one view."""
        return replace(self, all_views=False)


def _sorted(views: Floats) -> Floats:
    return np.stack([view[_order(view)] for view in views])


def _order(view: Floats) -> Integers:
    return np.lexsort(view.T)


def combine(evidence: Sequence[PairScores]) -> PairScores:
    """Independent witnesses: their log-odds add up, and the tokens compete again."""
    right = np.sum([scores.right for scores in evidence], axis=0)
    down = np.sum([scores.down for scores in evidence], axis=0)
    return PairScores(right, down).competing()


@contextmanager
def one_thread() -> Iterator[None]:
    """Many small products: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
