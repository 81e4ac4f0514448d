from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msdino_monai.finetuning.classification.calibration import Calibration
from msdino_monai.finetuning.classification.evaluation import report
from msdino_monai.finetuning.classification.predictions import Cases
from msdino_monai.reporting.roc import FEWEST, GRID, area, at, band, classes_of, roc, scored
from msdino_monai.reporting.runs import read_table


def pairwise(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area, counted pair by pair: ties are half a win."""
    above = scores[truth][:, None] - scores[~truth][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def test_curve_is_the_one_counted_by_hand() -> None:
    false, true = roc(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert false.tolist() == [0, 0, 0.5, 0.5, 1]
    assert true.tolist() == [0, 0.5, 0.5, 1, 1]


def test_equal_scores_are_one_slanted_step() -> None:
    false, true = roc(np.full(4, 0.5), np.array([True, False, True, False]))
    assert false.tolist() == true.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_area_is_the_share_of_pairs_in_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, truth = generator.integers(0, 9, 60) / 9, generator.random(60) < 0.4
    assert area(scores, truth) == pytest.approx(pairwise(scores, truth))


def test_sensitivity_is_read_off_at_the_upper_end_of_a_step() -> None:
    values = at(
        np.array([0.0, 0.25, 0.5, 1.0]), *roc(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0], dtype=bool))
    )
    assert values.tolist() == [0.5, 0.5, 1.0, 1.0]


def table(count: int, per_patient: int = 1) -> list[dict[str, str]]:
    generator = np.random.default_rng(0)
    rows = []
    for place in range(count):
        truth = int(generator.random() < 0.4)
        rows.append(
            {
                "file": f"{place}.png",
                "patient": f"p{place // per_patient}",
                "mass label": str(truth),
                "mass probability": str(generator.normal(truth)),
            }
        )
    return rows


def test_band_holds_the_curve_narrows_with_patients_and_repeats_with_its_seed() -> None:
    few, many = (scored(table(count), "mass") for count in (40, 400))
    assert band(scored(table(FEWEST), "mass"), repeats=50) is not None
    edges = {}
    for name, case in (("few", few), ("many", many)):
        found = band(case, repeats=200)
        assert found is not None
        middle = at(GRID, *roc(case.scores, case.truth))
        assert ((found[0] <= middle + 1e-9) & (middle <= found[1] + 1e-9)).mean() > 0.95
        edges[name] = float((found[1] - found[0]).mean())
    assert edges["many"] < 0.6 * edges["few"]
    first, again = band(few, repeats=50), band(few, repeats=50)
    assert first is not None
    assert again is not None
    assert np.array_equal(first[0], again[0])


def test_patients_are_drawn_not_images() -> None:
    """Ten copies of each patient's image tell no more than one."""
    single = table(40)
    copied = [{**row, "file": f"{row['file']}-{copy}"} for row in single for copy in range(10)]
    one, ten = (band(scored(rows, "mass"), repeats=200) for rows in (single, copied))
    assert one is not None
    assert ten is not None
    assert (ten[1] - ten[0]).mean() == pytest.approx((one[1] - one[0]).mean(), rel=0.15)


def test_no_band_of_a_handful_or_of_one_kind() -> None:
    assert band(scored(table(FEWEST - 1), "mass")) is None
    rows = [{**row, "mass label": "1"} for row in table(40)]
    assert not scored(rows, "mass").defined
    assert band(scored(rows, "mass")) is None


def test_areas_equal_those_of_the_evaluation_that_wrote_the_cases(tmp_path: Path) -> None:
    """The real writer's files; unknown labels are left out by both."""
    generator = np.random.default_rng(1)
    labels = (generator.random((30, 2)) < 0.5).astype(float)
    labels[::7, 1] = -1
    cases = Cases(tuple(f"{n:02d}.png" for n in range(30)), ("",) * 30, generator.normal(size=(30, 2)) + labels, labels)
    calibration = Calibration("multi_label", ("mass", "nodule"), 1.0, (0.5, 0.5))
    metrics = report(tmp_path, cases, calibration, bootstrap_repeats=10)
    rows = read_table(tmp_path / "cases.csv")
    assert classes_of(rows) == ["mass", "nodule"]
    for name in classes_of(rows):
        case = scored(rows, name)
        assert area(case.scores, case.truth) == pytest.approx(metrics["classes"][name]["auc"]["value"], abs=1e-9)
    assert len(scored(rows, "nodule").truth) == 25
