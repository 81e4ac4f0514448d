from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from privacy_exports import Sample

from msdino_monai.exporting import Defences
from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.jigsaw import JigsawAttack
from msdino_monai.privacy.simulation import SimulatedExport
from msdino_monai.privacy.truth import AssemblyReport, judge_assembly


@pytest.fixture(scope="module")
def reports(undefended: Sample, radiographs: Path) -> list[AssemblyReport]:
    """What the attack makes of the files of the undefended export."""
    evidence, orders = undefended.evidence(), undefended.orders()
    pictures = undefended.pictures(radiographs)
    assert set(evidence.image_ids) == pictures.keys() == orders.keys()
    attack = JigsawAttack(evidence.embedder, evidence.noise, evidence.dtype)
    return [
        judge_assembly(attack(views), pictures[image], orders[image][0], evidence.embedder)
        for image, views in zip(evidence.image_ids, evidence.tokens, strict=True)
    ]


def test_bare_shuffle_is_solved_on_real_and_synthetic_radiographs(reports: list[AssemblyReport]) -> None:
    """An attacker too weak to show the leak would make every figure of the audit worthless."""
    neighbours = [report.assembly.neighbours for report in reports]
    assert np.mean(neighbours) >= 0.95
    assert min(neighbours) >= 0.9
    assert max(report.assembly.chance for report in reports) < 0.05


def test_solver_brings_the_picture_back(reports: list[AssemblyReport]) -> None:
    for report in reports:
        assert report.known_order.ssim > 0.999
        assert report.shuffled.ssim < 0.5
    assert np.mean([report.solved.ssim for report in reports]) > 0.7


def attacked(image: np.ndarray, **settings: float) -> AssemblyReport:
    """One picture, embedded and shuffled in memory as the export does it."""
    kept_share = settings.pop("kept_share", 1.0)
    codes = settings.pop("position_scale", 0.0)
    embedding = PatchEmbedding(224, 16, position_scale=codes, **{key: int(value) for key, value in settings.items()})
    embedder = KnownEmbedder.of(embedding)
    tokens = SimulatedExport.of(_as_batch(image), embedder).tokens
    shuffled, orders = Defences(kept_share=kept_share).apply(tokens)
    return judge_assembly(JigsawAttack(embedder)(shuffled), image, orders[0], embedder)


def _as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


def test_real_radiograph_is_put_together_whole(pictures: np.ndarray) -> None:
    report = attacked(pictures[0], embedding_dim=384)
    assert report.assembly.neighbours >= 0.95
    assert report.assembly.places >= 0.95
    assert report.top_match > 0.9


def test_dropped_tokens_leave_the_rest_solvable(pictures: np.ndarray) -> None:
    assert attacked(pictures[0], embedding_dim=384, kept_share=0.75).assembly.neighbours > 0.7


def test_fewer_dimensions_and_a_margin_make_it_harder(pictures: np.ndarray) -> None:
    """By the matches before the assembly: a solver that gets past a threshold solves the rest by luck."""
    bare = attacked(pictures[0], embedding_dim=384).top_match
    fewer = attacked(pictures[0], embedding_dim=64).top_match
    margin = attacked(pictures[0], embedding_dim=128, margin=2).top_match
    assert bare > fewer + 0.2 > margin + 0.4
    assert margin > 0.03  # chance is 0.004: hard is not safe


def test_position_codes_give_the_order_away(pictures: np.ndarray) -> None:
    coded = attacked(pictures[0], embedding_dim=128, margin=2, position_scale=1.0).assembly
    plain = attacked(pictures[0], embedding_dim=128, margin=2).assembly
    assert coded.neighbours > 0.9 > plain.neighbours + 0.5
    assert coded.places > 0.9


def test_attack_is_the_same_every_time(pictures: np.ndarray) -> None:
    embedder = KnownEmbedder.of(PatchEmbedding(224, 16, 128, 2))
    views = SimulatedExport.of(_as_batch(pictures[0]), embedder).tokens
    first, second = (JigsawAttack(embedder, seed=3)(views) for _ in range(2))
    np.testing.assert_array_equal(first.cells, second.cells)


def test_order_of_the_tokens_tells_the_attack_nothing(pictures: np.ndarray) -> None:
    """A solver that leaned on the order it was given would look strong on tokens that were never shuffled."""
    embedder = KnownEmbedder.of(PatchEmbedding(224, 16, 128, 3))
    views = SimulatedExport.of(_as_batch(pictures[0]), embedder).tokens
    found = JigsawAttack(embedder)(views)
    report = judge_assembly(found, pictures[0], np.arange(196), embedder)
    assert report.assembly.neighbours < 0.3
    order = np.random.default_rng(0).permutation(196)
    shuffled = JigsawAttack(embedder)(views[:, order])
    distinct = np.unique(views[0], axis=0, return_counts=True, return_inverse=True)
    alone = (distinct[2] == 1)[distinct[1].ravel()]  # equal tokens, of the background, stand for each other
    np.testing.assert_array_equal(shuffled.cells[alone[order]], found.cells[order][alone[order]])
    np.testing.assert_array_equal(shuffled.patches, found.patches[order])
    np.testing.assert_array_equal(shuffled.scores.right, found.scores.right[np.ix_(order, order)])
