from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from msdino_monai.networks import ViTBody
from msdino_monai.pretraining import Probe
from msdino_monai.pretraining.labelled import LabelledTokens
from msdino_monai.pretraining.probe import auc_per_class, class_features, knn_scores, linear_scores, probe


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def slow_knn(features: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, neighbours: int) -> list[float]:
    """DINO's weighted vote, one query at a time."""
    cosines = [float(torch.cosine_similarity(query, row, dim=0)) for row in features]
    nearest = sorted(range(len(features)), key=lambda i: -cosines[i])[:neighbours]
    scores = []
    for c in range(labels.shape[1]):
        votes = [(math.exp(cosines[i] / 0.07), float(labels[i, c])) for i in nearest if labels[i, c] >= 0]
        scores.append(sum(w * label for w, label in votes) / sum(w for w, _ in votes) if votes else 0.0)
    return scores


def test_neighbours_vote_by_similarity_and_missing_labels_abstain() -> None:
    features, queries = torch.randn(30, 6), torch.randn(5, 6)
    labels = torch.randint(-1, 2, (30, 3))
    found = knn_scores(features, labels, queries, neighbours=7)
    expected = [slow_knn(features, labels, query, 7) for query in queries]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_linear_probe_is_at_its_minimum_and_ignores_missing_labels() -> None:
    features, labels = torch.randn(60, 4), torch.randint(0, 2, (60, 2)).float()
    scores = linear_scores(features, labels, features)
    inputs = ((features - features.mean(0)) / features.std(0)).double()
    weight = torch.linalg.lstsq(torch.cat([inputs, torch.ones(60, 1).double()], 1), scores.double()).solution
    residual = torch.sigmoid(scores.double()) - labels
    gradient = inputs.T @ residual / 60 + 0.1 * weight[:4]  # of the mean cross-entropy and its decay
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-3, rtol=0)
    torch.testing.assert_close(residual.mean(0), torch.zeros(2).double(), atol=1e-3, rtol=0)
    unknown = torch.cat([labels, -torch.ones(9, 2)])
    more = torch.cat([features, features[:9]])
    scale = features.mean(0), features.std(0)
    assert scale[0].shape == (4,)
    assert linear_scores(more, unknown, features).shape == (60, 2)


def slow_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(p, n) for p in scores[labels == 1] for n in scores[labels == 0]]
    return float(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]))


def test_area_under_the_curve_is_the_share_of_ordered_pairs() -> None:
    scores = torch.randint(0, 6, (40, 3)).float()
    labels = torch.randint(0, 2, (40, 3)).float()
    labels[:5, 1] = -1
    labels[:, 2] = 1
    found = auc_per_class(scores, labels)
    for c in (0, 1):
        known = labels[:, c] >= 0
        assert found[c] == pytest.approx(slow_auc(scores[known, c].numpy(), labels[known, c].numpy()))
    assert math.isnan(found[2])


def test_probe_finds_what_is_there_and_nothing_in_noise() -> None:
    labels = torch.randint(0, 2, (400, 1)).float()
    informative = torch.cat([labels * 4, torch.randn(400, 3)], 1)
    scores = probe(informative[:300], labels[:300], informative[300:], labels[300:])
    assert min(scores.knn_auc, scores.linear_auc) > 0.95
    noise = torch.randn(400, 4)
    scores = probe(noise[:300], labels[:300], noise[300:], labels[300:])
    assert 0.3 < scores.knn_auc < 0.7
    assert 0.3 < scores.linear_auc < 0.7


def test_features_come_in_parts_and_leave_the_body_as_it_was() -> None:
    body, tokens = ViTBody(6, 8, 16, 2, 2, drop_path_rate=0.5).train(), torch.randn(7, 4, 6)
    found = class_features(body, tokens, batch_size=3)
    assert body.training
    torch.testing.assert_close(found, body.eval()(tokens)[:, 0].detach())


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_probe_comes_every_so_often_and_at_the_end(every: int, epochs: list[int]) -> None:
    labelled = LabelledTokens(torch.randn(12, 4, 6).half(), torch.randint(0, 2, (12, 2)).float())
    handler = Probe(ViTBody(6, 8, 16, 1, 2), {"training": labelled, "test": labelled}, every)
    engine = Engine(lambda *_: None)
    handler.attach(engine)
    seen: list[int] = []
    from ignite.engine import Events

    @engine.on(Events.EPOCH_COMPLETED)
    def _(of: Engine) -> None:
        if "knn_auc" in of.state.metrics and "linear_auc" in of.state.metrics:
            seen.append(of.state.epoch)

    engine.run(range(1), max_epochs=5)
    assert seen == epochs
