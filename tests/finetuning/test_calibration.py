from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.calibration import (
    fit_calibration,
    fit_temperature,
    read_calibration,
)


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_temperature_that_made_the_labels_is_found(wanted: float) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(4000, 2, dtype=torch.float64)
    labels = torch.bernoulli((logits / wanted).sigmoid())
    assert fit_temperature("multi_label", logits, labels) == pytest.approx(wanted, rel=0.1)


def test_temperature_of_softmax_ignores_unknown_rows() -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(4000, 3, dtype=torch.float64)
    drawn = torch.multinomial((logits / 2).softmax(1), 1)[:, 0]
    labels = torch.nn.functional.one_hot(drawn, 3).double()
    labels[::4] = -1
    assert fit_temperature("multi_class", logits, labels) == pytest.approx(2.0, rel=0.1)
    assert fit_temperature("multi_class", logits, torch.full_like(labels, -1)) == 1.0


def test_calibration_survives_the_way_through_its_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((80, 2)) < 0.4).astype(float)
    logits = 2 * labels + generator.normal(size=(80, 2))
    labels[:, 1] = 0
    fitted = fit_calibration("multi_label", ("a", "b"), logits, labels)
    assert fitted.undefined == ("b",)
    assert fitted.thresholds[1] == 0.5
    fitted.save(tmp_path / "model.pt")
    assert read_calibration(tmp_path / "model.pt", "multi_label", ("a", "b")) == fitted
    probabilities = fitted.probabilities(torch.from_numpy(logits)).numpy()
    assert (fitted.positives(probabilities)[:, 0] == (probabilities[:, 0] >= fitted.thresholds[0])).all()


def test_likeliest_class_is_called_where_one_must_be(tmp_path: Path) -> None:
    calibration = read_calibration(tmp_path / "model.pt", "multi_class", ("a", "b", "c"))
    assert not calibration.fitted
    probabilities = calibration.probabilities(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 5.0]]))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    assert calibration.positives(probabilities.numpy()).tolist() == [[False, True, False], [False, False, True]]


def test_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.calibration.json"
    path.write_text(json.dumps({"task": "multi_label", "temperature": 1.0, "thresholds": {"a": 0.5}}))
    with pytest.raises(UserError, match="lacks 'b'"):
        read_calibration(tmp_path / "model.pt", "multi_label", ("a", "b"))
    with pytest.raises(UserError, match="another model"):
        read_calibration(tmp_path / "model.pt", "multi_class", ("a",))
    path.write_text("[1]")
    with pytest.raises(UserError, match="no JSON object"):
        read_calibration(tmp_path / "model.pt", "multi_label", ("a",))
