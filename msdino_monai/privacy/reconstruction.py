"""Attacks that want the picture back: inversion, jigsaw, all views together, learnt placement, learnt inverter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from tqdm import tqdm

from msdino_monai.privacy.assembly import patch_classes, score_assembly
from msdino_monai.privacy.averaging import average_views
from msdino_monai.privacy.gaussian_puzzle import GaussianPuzzle
from msdino_monai.privacy.inversion import (
    PatchPrior,
    cut_patches,
    invert,
    invert_with_prior,
    join_patches,
    noise_variance,
)
from msdino_monai.privacy.jigsaw import Assembly, JigsawAttack, PuzzleScorer, Witnesses, one_thread
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.placement import place_by_prior
from msdino_monai.privacy.puzzle_network import PuzzleNetwork, train_puzzle_network
from msdino_monai.privacy.row import Row, row_of_values
from msdino_monai.privacy.sample import Sample, rearrange
from msdino_monai.privacy.set_inverter import SetInverter, train_set_inverter
from msdino_monai.privacy.similarity import Similarity, compare_pictures
from msdino_monai.privacy.simulation import SimulatedExport
from msdino_monai.privacy.truth import AssemblyReport, judge_assembly

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Pictures = list[Floats]

AS_IT_CAME = "single patches, order unknown, before any solver"
KNOWN_ORDER = "single patches, order known"
PLACES = "places of tokens, guessed one by one"
INVERTER = "learnt inverter of token sets"


@dataclass(frozen=True)
class Learnt:
    """What the attacker makes of auxiliary images before it looks at an export."""

    prior: PatchPrior
    network: PuzzleNetwork
    gaussian: GaussianPuzzle
    inverter: SetInverter
    average: Floats  # the mean picture (H, W): what somebody guesses who has seen no token

    @cached_property
    def both(self) -> Witnesses:
        """Network and Gaussians err differently."""
        return Witnesses((self.network, self.gaussian))


def learn(sample: Sample, auxiliary: Floats, *, steps: int = 300, copies: int = 2, seed: int = 0) -> Learnt:
    """Train on auxiliary images (B, H, W), exported as the manifest says the sample was."""
    evidence = sample.evidence
    set_seed = getattr(sample.augment, "set_random_state", None)
    if set_seed is not None:
        set_seed(seed=seed)
    simulated = SimulatedExport.of(
        torch.from_numpy(auxiliary)[:, None],
        evidence.embedder,
        noise=evidence.noise,
        dtype=evidence.dtype,
        augment=sample.augment,
        copies=copies,
        seed=seed,
    )
    size = evidence.embedder.patch_size
    kept = evidence.tokens.shape[2] / len(evidence.embedder.codes)
    with one_thread():
        return Learnt(
            prior=PatchPrior.fit(simulated.images, size),
            network=train_puzzle_network(simulated, evidence.embedder.grid, steps=steps, seed=seed),
            gaussian=GaussianPuzzle.fit(
                simulated.images, evidence.embedder, noise=evidence.noise, dtype=evidence.dtype
            ),
            inverter=train_set_inverter(simulated, size, steps=steps, kept_share=kept, seed=seed),
            average=simulated.images.mean(0),
        )


@dataclass(frozen=True)
class Puzzle:
    """One image under attack: its views (V, K, D) as an attacker arranges them, and the truth to judge by."""

    views: Floats
    orders: Integers
    pictures: Floats  # (V, H, W)
    sample: Sample
    seed: int

    @cached_property
    def variance(self) -> float:
        return noise_variance(self.views, self.sample.evidence.noise, self.sample.evidence.dtype)

    @cached_property
    def guess(self) -> Integers:
        """Cells of an attacker who guesses."""
        cells = len(self.sample.evidence.embedder.codes)
        return np.random.default_rng(self.seed + 1).permutation(cells)[: self.views.shape[1]].astype(np.int64)


def puzzles(sample: Sample, seed: int = 0) -> list[Puzzle]:
    """Every image of the sample."""
    found = []
    for image in range(len(sample)):
        tokens, orders = rearrange(sample.evidence.tokens[image], sample.orders[image], seed + image)
        found.append(Puzzle(tokens, orders, sample.views[image], sample, seed + image))
    return found


@dataclass(frozen=True)
class Attempt:
    """What one attack made of every image: its rows, and the pictures (one an image) the report shows."""

    name: str
    rows: tuple[Row, ...]
    pictures: Pictures = field(default_factory=list)
    caption: str = ""


def attack_patches(tasks: Sequence[Puzzle], learnt: Learnt, *, seed: int = 0) -> Iterator[Attempt]:
    """Inversion alone: what single patches show, with the order given, and as they lie in the file."""
    embedder = tasks[0].sample.evidence.embedder

    def padded(patches: Floats) -> Floats:
        return np.pad(patches, ((0, 0), *[(embedder.margin, embedder.margin)] * 2), mode="edge")

    def exact(task: Puzzle, order: Integers) -> Floats:
        bare = task.views[0] - embedder.codes[order].astype(np.float32)
        return padded(invert(bare, embedder))

    def likely(task: Puzzle, order: Integers) -> Floats:
        return _likely(task, 0, order, learnt)

    ways: tuple[tuple[str, Callable[[Puzzle, Integers], Floats], bool], ...] = (
        ("pseudo-inverse", exact, False),
        ("most likely patches", likely, True),
    )
    for way, inverted, auxiliary in ways:
        known = [join_patches(inverted(task, task.orders[0]), task.orders[0], embedder.grid) for task in tasks]
        attempt = _pictures(
            f"{KNOWN_ORDER}: {way}", Knowledge(order=True, auxiliary_images=auxiliary), tasks, known, learnt, seed
        )
        yield replace(attempt, caption="its patches, were their order known") if auxiliary else attempt
    yield from _averaged(tasks, learnt, seed)
    came = [join_patches(likely(task, task.guess), task.guess, embedder.grid) for task in tasks]
    attempt = _pictures(AS_IT_CAME, Knowledge(auxiliary_images=True), tasks, came, learnt, seed)
    yield replace(attempt, caption="its patches, in the order of the file")


def _likely(task: Puzzle, view: int, order: Integers, learnt: Learnt) -> Floats:
    """The most likely patches (K, p, p) of a view whose tokens lie in these cells."""
    embedder = task.sample.evidence.embedder
    bare = task.views[view] - embedder.codes[order].astype(np.float32)
    return invert_with_prior(bare, embedder, learnt.prior, task.variance, whole=True)


def _averaged(tasks: Sequence[Puzzle], learnt: Learnt, seed: int) -> Iterator[Attempt]:
    """What 2, 3, ... views show, were their orders known: noise and dropped margins average out."""
    if len(tasks[0].views) == 1:
        return
    grid = tasks[0].sample.evidence.embedder.grid

    def averages(task: Puzzle) -> list[Floats]:
        patches = [_likely(task, view, order, learnt) for view, order in enumerate(task.orders)]
        pictures = [join_patches(each, order, grid) for each, order in zip(patches, task.orders, strict=True)]
        shown = [
            join_patches(np.ones_like(each), order, grid) for each, order in zip(patches, task.orders, strict=True)
        ]
        return average_views(np.stack(pictures), np.stack(shown))

    knowledge = Knowledge(order=True, auxiliary_images=True, all_views=True)
    of_tasks = [averages(task) for task in _bar(tasks, f"{KNOWN_ORDER}: views averaged")]
    for views, pictures in enumerate(zip(*of_tasks, strict=True), start=1):
        if views > 1:
            attempt = _pictures(
                f"{KNOWN_ORDER}: {views} views averaged", knowledge, tasks, list(pictures), learnt, seed
            )
            yield replace(attempt, caption=f"{views} views averaged, were their orders known")


def _pictures(
    name: str, knowledge: Knowledge, tasks: Sequence[Puzzle], pictures: Pictures, learnt: Learnt, seed: int
) -> Attempt:
    """How much pictures look like the true ones; chance is the mean of all auxiliary pictures."""
    found = [compare_pictures(picture, task.pictures[0]) for picture, task in zip(pictures, tasks, strict=True)]
    guessed = [compare_pictures(learnt.average, task.pictures[0]) for task in tasks]
    return Attempt(name, tuple(_similarity_rows(name, knowledge, found, guessed, seed)), pictures)


def _similarity_rows(
    name: str, knowledge: Knowledge, found: Sequence[Similarity], guessed: Sequence[Similarity], seed: int
) -> Iterator[Row]:
    for metric in ("ssim", "psnr", "gmsd"):
        values, chance = ([getattr(each, metric) for each in side] for side in (found, guessed))
        yield row_of_values(name, metric, knowledge, values, chance, seed=seed, higher_is_worse=metric != "gmsd")


def attack_places(tasks: Sequence[Puzzle], learnt: Learnt, *, seed: int = 0) -> Iterator[Attempt]:
    """The cell of every token, from the token alone (and position codes), each cell taken once."""
    embedder = tasks[0].sample.evidence.embedder
    scorers: dict[str, PuzzleScorer] = {
        f"{PLACES} by a network": learnt.network,
        f"{PLACES} by network and Gaussians": learnt.both,
    }
    for name, scorer in scorers.items():
        values, chance = [], []
        for task in tasks:
            odds, _ = place_by_prior(task.views[0], embedder, learnt.prior, task.variance)
            _, learnt_odds = scorer.scores(task.views[0])
            _, cells = linear_sum_assignment(learnt_odds if odds is None else odds + learnt_odds, maximize=True)
            score = score_assembly(cells, task.orders[0], _kinds(task), embedder.grid)
            values.append(score.places)
            chance.append(score.chance_place)
        row = row_of_values(name, "places", Knowledge(auxiliary_images=True), values, chance, seed=seed)
        yield Attempt(name, (row,))


def _kinds(task: Puzzle) -> Integers:
    """The class (N,) of each cell's patch."""
    embedder = task.sample.evidence.embedder
    visible = cut_patches(task.pictures[:1], embedder.patch_size, embedder.margin)[0]
    return patch_classes(visible.reshape(len(visible), -1))


def attack_puzzles(tasks: Sequence[Puzzle], learnt: Learnt, *, seed: int = 0) -> Iterator[Attempt]:
    """The jigsaw of one view, by attackers who know more and more."""
    evidence = tasks[0].sample.evidence
    plain = JigsawAttack(evidence.embedder, evidence.noise, evidence.dtype, seed=seed).alone()
    dropped = ", of the tokens that were not dropped" if evidence.tokens.shape[2] < len(evidence.embedder.codes) else ""
    attackers = {
        f"jigsaw by edges{dropped}": plain,
        f"jigsaw by edges and learnt pairs{dropped}": replace(
            plain, prior=learnt.prior, scorer=learnt.network, with_places=False
        ),
        f"jigsaw by edges, learnt pairs and places{dropped}": replace(plain, prior=learnt.prior, scorer=learnt.network),
        f"jigsaw by Gaussian pairs and places{dropped}": replace(
            plain, prior=learnt.prior, scorer=learnt.gaussian, with_edges=False
        ),
        f"jigsaw by edges, Gaussian pairs and places{dropped}": replace(
            plain, prior=learnt.prior, scorer=learnt.gaussian
        ),
        f"jigsaw by learnt and Gaussian pairs and places{dropped}": replace(
            plain, prior=learnt.prior, scorer=learnt.both, with_edges=False
        ),
        f"jigsaw by edges, learnt and Gaussian pairs and places{dropped}": replace(
            plain, prior=learnt.prior, scorer=learnt.both
        ),
    }
    for name, attack in attackers.items():
        yield _assembled(name, attack.knowledge, tasks, [attack(task.views[:1]) for task in _bar(tasks, name)], seed)


def attack_views(tasks: Sequence[Puzzle], learnt: Learnt, *, seed: int = 0) -> Iterator[Attempt]:
    """The jigsaw of the first view with the help of 1, 2, ... others; of fewer images, the more views there are."""
    evidence = tasks[0].sample.evidence
    count = evidence.tokens.shape[1]
    if count == 1:
        return
    tasks = tasks[: max(3, len(tasks) // (count - 1))]
    plain = JigsawAttack(evidence.embedder, evidence.noise, evidence.dtype, prior=learnt.prior, seed=seed)
    bridges = [plain.bridges(task.views) for task in _bar(tasks, "views together")]
    attackers = {
        "edges": plain,
        "edges and learnt pairs": replace(plain, scorer=learnt.network, with_places=False),
        "edges, learnt pairs and places": replace(plain, scorer=learnt.network),
        "edges, learnt and Gaussian pairs and places": replace(plain, scorer=learnt.both),
    }
    for views in range(2, count + 1):
        for how, attack in attackers.items():
            name = f"jigsaw of {views} views together by {how}"
            found = [
                attack(task.views[:views], bridge[: views - 1]) for task, bridge in zip(tasks, bridges, strict=True)
            ]
            yield _assembled(name, attack.knowledge, tasks, found, seed)


def _assembled(
    name: str, knowledge: Knowledge, tasks: Sequence[Puzzle], found: Sequence[Assembly], seed: int
) -> Attempt:
    """Neighbours, places and pictures of solved puzzles; chance is a random arrangement."""
    embedder = tasks[0].sample.evidence.embedder
    reports = [
        judge_assembly(each, task.pictures[0], task.orders[0], embedder)
        for each, task in zip(found, tasks, strict=True)
    ]
    guessed = [
        compare_pictures(join_patches(each.patches, task.guess, embedder.grid), task.pictures[0])
        for each, task in zip(found, tasks, strict=True)
    ]
    rows = [
        *_share_rows(name, knowledge, reports, tasks[0].views.shape[1], seed),
        *_similarity_rows(f"{name}, solved", knowledge, [report.solved for report in reports], guessed, seed),
    ]
    pictures = [join_patches(each.patches, each.cells, embedder.grid) for each in found]
    return Attempt(name, tuple(rows), pictures, caption=f"put together: {name}")


def _share_rows(
    name: str, knowledge: Knowledge, reports: Sequence[AssemblyReport], tokens: int, seed: int
) -> Iterator[Row]:
    pieces = [1 / tokens] * len(reports)
    scores = [report.assembly for report in reports]
    shares = {
        "neighbours": ([each.neighbours for each in scores], [each.chance for each in scores]),
        "places": ([each.places for each in scores], [each.chance_place for each in scores]),
        "largest piece": ([each.largest_piece for each in scores], pieces),
        "best neighbour before the solver": ([each.top_match for each in reports], pieces),
    }
    for metric, (values, chance) in shares.items():
        yield row_of_values(name, metric, knowledge, values, chance, seed=seed)


def attack_sets(tasks: Sequence[Puzzle], learnt: Learnt, *, seed: int = 0) -> Attempt:
    """The learnt inverter: a picture at once, with no puzzle solved."""
    embedder = tasks[0].sample.evidence.embedder
    painted = [learnt.inverter.invert(task.views[0], embedder.grid) for task in tasks]
    attempt = _pictures(INVERTER, learnt.inverter.knowledge, tasks, painted, learnt, seed)
    return replace(attempt, caption="painted at once by a network that knows chests")


def _bar(tasks: Sequence[Puzzle], name: str) -> tqdm[Puzzle]:
    return tqdm(tasks, desc=name, unit=" images", disable=not sys.stderr.isatty())
