from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.vault.quantise import quantise


def test_int8_is_off_by_half_a_step_at_most() -> None:
    views = np.random.default_rng(0).standard_normal((3, 10, 7)).astype(np.float32) * [[[1]], [[50]], [[0.01]]]
    tokens, scale = quantise(views, "int8")
    assert tokens.dtype == np.int8
    assert (np.abs(tokens * scale[:, None, None] - views) <= scale[:, None, None] * 0.5001).all()


def test_a_black_view_stays_zero() -> None:
    tokens, scale = quantise(np.zeros((1, 4, 4)), "int8")
    assert not tokens.any()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(dtype: str, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantise(np.full((1, 2, 2), value), dtype)


def test_float16_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="int8"):
        quantise(np.full((1, 2, 2), 1e6), "float16")
