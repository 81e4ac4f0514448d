from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.finetuning.intervals import bootstrap_intervals, resamples


def test_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(size=400)
    (interval,) = bootstrap_intervals(lambda rows: [values[rows].mean()], 400, repeats=4000)
    assert interval is not None
    expected = 1.96 * values.std() / np.sqrt(400)
    assert interval[1] - values.mean() == pytest.approx(expected, rel=0.1)
    assert values.mean() - interval[0] == pytest.approx(expected, rel=0.1)


def test_same_seed_pairs_two_networks() -> None:
    first = [rows.tolist() for rows in resamples(20, 5, seed=3)]
    assert first == [rows.tolist() for rows in resamples(20, 5, seed=3)]
    assert first != [rows.tolist() for rows in resamples(20, 5, seed=4)]


def test_images_of_a_patient_are_drawn_together() -> None:
    groups = ["a", "a", "a", "b", "c", "c"]
    for rows in resamples(6, 20, groups=groups):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[1] == counts[2]
        assert counts[4] == counts[5]
        assert counts[0] + counts[3] + counts[4] == 3


def test_patients_with_equal_images_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=50), 4)
    groups = np.repeat(np.arange(50), 4).tolist()
    (loose,) = bootstrap_intervals(lambda rows: [values[rows].mean()], 200)
    (honest,) = bootstrap_intervals(lambda rows: [values[rows].mean()], 200, groups=groups)
    assert loose is not None
    assert honest is not None
    assert honest[1] - honest[0] > 1.6 * (loose[1] - loose[0])


def test_figure_that_is_mostly_undefined_has_no_interval() -> None:
    figures = bootstrap_intervals(lambda rows: [1.0, np.nan, np.nan if rows[0] == 0 else 2.0], 10, repeats=50)
    assert figures == [(1.0, 1.0), None, (2.0, 2.0)]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap_intervals(lambda _: [0.0], 3, level=1.0)
    with pytest.raises(ValueError, match="groups"):
        list(resamples(3, 1, groups=["a"]))
