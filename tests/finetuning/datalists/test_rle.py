from __future__ import annotations

import numpy as np
import pytest

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.rle import decode_rle


def encode(mask: np.ndarray, kind: str) -> str:
    """The slow way: walk down each column and write every run."""
    runs: list[list[int]] = []
    before, last = False, 0
    for place, value in enumerate(mask.T.reshape(-1)):
        if value and not before:
            runs.append([place - last if kind == "relative" else place + 1, 0])
        if value:
            runs[-1][1] += 1
            last = place + 1
        before = bool(value)
    return " ".join(f"{start} {length}" for start, length in runs)


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_decoding_undoes_encoding(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((7, 11)) < rng.random()
        np.testing.assert_array_equal(decode_rle(encode(mask, kind), 7, 11, kind), mask)


def test_relative_starts_count_from_the_end_of_the_run_before() -> None:
    mask = decode_rle("2 2 3 1", 4, 3)
    expected = np.zeros((4, 3), dtype=bool)
    expected[2:4, 0] = True  # pixels 2 and 3, down the first column
    expected[3, 1] = True  # 4 + 3 = pixel 7
    np.testing.assert_array_equal(mask, expected)


def test_absolute_starts_count_from_one() -> None:
    mask = decode_rle("1 2 8 1", 4, 3, "absolute")
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 0], [3, 1]]


@pytest.mark.parametrize("code", ["-1", " -1 ", ""])
def test_no_region_is_an_empty_mask(code: str) -> None:
    assert decode_rle(code, 5, 6).shape == (5, 6)
    assert not decode_rle(code, 5, 6).any()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("1 2 3", "relative", "3 numbers, not pairs"),
        ("1 x", "relative", "not whole numbers"),
        ("10 3", "relative", "--rle absolute"),
        ("-3 2", "relative", "do not fit"),
        ("2 -1", "relative", "do not fit"),
        ("0 2", "absolute", "--rle relative"),
        ("5 2 3 1", "absolute", "--rle relative"),
        ("12 2", "absolute", "do not fit 12 pixels"),
    ],
)
def test_codes_that_do_not_fit_are_refused(code: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_rle(code, 4, 3, kind)


def test_each_kind_refuses_the_other_on_a_real_outline() -> None:
    rows, columns = np.mgrid[0:256, 0:256]
    lung = (rows - 120) ** 2 / 80**2 + (columns - 180) ** 2 / 30**2 < 1
    with pytest.raises(UserError, match="is it --rle absolute"):
        decode_rle(encode(lung, "absolute"), 256, 256, "relative")
    with pytest.raises(UserError, match="is it --rle relative"):
        decode_rle(encode(lung, "relative"), 256, 256, "absolute")
