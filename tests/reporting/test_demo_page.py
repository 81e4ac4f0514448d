"""The report of the demo that was walked here, as a browser shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import look_at

REPORT = Path(__file__).parents[2] / "demo" / "report.html"


@pytest.mark.skipif("CI" not in os.environ or not REPORT.exists(), reason="CI walks a demo before the tests")
def test_report_of_the_demo_fits_a_phone_and_a_desk_and_asks_for_nothing(tmp_path: Path) -> None:
    sight = look_at(REPORT, tmp_path)
    for view in sight.views:
        assert view.scroll_width <= view.width
        assert view.wide == []
        assert view.pictures > 20
        assert view.broken == []
    assert sight.requests == []
