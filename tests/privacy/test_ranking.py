from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.privacy.ranking import area_under_curve, score_linkage, score_membership, true_positives


def test_linkage_of_a_perfect_and_of_a_reversed_ranking() -> None:
    matches = np.eye(5, dtype=bool)
    perfect = score_linkage(matches.astype(float), matches)
    assert (perfect.top_1, perfect.mean_average_precision, perfect.auc) == (1, 1, 1)
    assert perfect.chance == pytest.approx(0.2)
    reverse = score_linkage(-matches.astype(float), matches)
    assert (reverse.top_1, reverse.mean_average_precision, reverse.auc) == (0, pytest.approx(0.2), 0)


def test_average_precision_is_that_of_the_textbook() -> None:
    similarity = np.array([[4.0, 3.0, 2.0, 1.0]])
    matches = np.array([[True, False, True, False]])
    assert score_linkage(similarity, matches).mean_average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_queries_without_a_match_do_not_count() -> None:
    matches = np.array([[True, False], [False, False]])
    assert score_linkage(np.array([[1.0, 0.0], [0.0, 1.0]]), matches).top_1 == 1
    with pytest.raises(ValueError, match="no query has a match"):
        score_linkage(np.zeros((1, 2)), np.zeros((1, 2), dtype=bool))


def test_ties_count_half() -> None:
    assert area_under_curve(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert np.isnan(area_under_curve(np.array([]), np.array([1.0])))


def test_few_false_positives_are_allowed() -> None:
    others = np.arange(100.0)
    assert true_positives(np.array([98.5, 97.0]), others, 0.01) == 0.5
    score = score_membership(np.full(10, 200.0), others)
    assert (score.auc, score.tpr_at_1_percent_fpr) == (1, 1)
    assert score_membership(others, others).auc == 0.5
