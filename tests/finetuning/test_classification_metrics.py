from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_precision, compute_roc_auc

from msdino_monai.finetuning.classification.metrics import (
    average_precision,
    balanced_accuracy,
    calibration_error,
    mean_of_defined,
    per_class,
    reliability,
    roc_auc,
    sensitivity_at_specificity,
    youden_threshold,
)

TRUE = np.array([True, True, False, True, False, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_auc_and_average_precision_are_monais(decimals: int) -> None:
    """With one decimal most scores are tied."""
    generator = np.random.default_rng(decimals)
    for _ in range(10):
        scores = generator.normal(size=60).round(decimals)
        truth = generator.random(60) < 0.3
        tensors = torch.from_numpy(scores), torch.from_numpy(truth.astype(np.int64))
        assert roc_auc(scores, truth) == pytest.approx(float(compute_roc_auc(*tensors)))
        if decimals == 8:  # MONAI orders tied scores by chance
            assert average_precision(scores, truth) == pytest.approx(float(compute_average_precision(*tensors)))


def test_average_precision_of_ties_is_the_share_of_positives() -> None:
    assert average_precision(np.ones(10), np.arange(10) < 3) == pytest.approx(0.3)


@pytest.mark.parametrize("truth", [np.zeros(6, dtype=bool), np.ones(6, dtype=bool)])
def test_one_kind_of_label_leaves_figures_undefined(truth: np.ndarray) -> None:
    for figure in (roc_auc, average_precision, sensitivity_at_specificity, youden_threshold):
        assert math.isnan(figure(SCORES, truth)), figure.__name__
    assert math.isnan(balanced_accuracy(SCORES > 0.5, truth))


def test_sensitivity_at_a_specificity_by_hand() -> None:
    assert sensitivity_at_specificity(SCORES, TRUE, 1.0) == pytest.approx(2 / 3)
    assert sensitivity_at_specificity(SCORES, TRUE, 0.6) == pytest.approx(1.0)
    assert sensitivity_at_specificity(-SCORES, TRUE, 1.0) == 0.0


def test_balanced_accuracy_by_hand() -> None:
    assert balanced_accuracy(SCORES >= 0.65, TRUE) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_youdens_threshold_separates_what_can_be_separated() -> None:
    threshold = youden_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert threshold == pytest.approx(0.5)


def test_calibration_error_of_known_gaps() -> None:
    probabilities = np.repeat([0.3, 0.7], 100)
    honest = np.concatenate([np.arange(100) < 30, np.arange(100) < 70])
    assert calibration_error(probabilities, honest) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(probabilities, ~honest) == pytest.approx(0.4, abs=1e-6)
    predicted, observed, counts = reliability(probabilities, honest, 4)
    assert counts.tolist() == [0, 100, 100, 0]
    assert predicted[1] == pytest.approx(0.3)
    assert observed[2] == pytest.approx(0.7)


def test_missing_labels_have_no_say() -> None:
    labels = np.stack([TRUE.astype(float), np.where(TRUE, 1.0, -1.0)], axis=1)
    scores = np.stack([SCORES, SCORES], axis=1)
    first, second = per_class(roc_auc, scores, labels)
    assert first == pytest.approx(roc_auc(SCORES, TRUE))
    assert math.isnan(second), "only positives are known"
    assert mean_of_defined([first, second]) == pytest.approx(first)
    assert math.isnan(mean_of_defined([math.nan]))
