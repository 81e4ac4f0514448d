from __future__ import annotations

from typing import Any

import pytest

from msdino_monai.errors import UserError
from msdino_monai.numbers import check_fractions


def test_fractions_reach_from_none_to_all() -> None:
    check_fractions(threshold=0, specificity=0.9, overlap=1)


@pytest.mark.parametrize("wrong", [90, 1.01, -0.1, float("nan"), float("inf"), True, "0.5", None])
def test_percentages_and_words_are_no_fractions(wrong: Any) -> None:
    with pytest.raises(UserError, match="--specificity must be a number"):
        check_fractions(threshold=0.5, specificity=wrong)
