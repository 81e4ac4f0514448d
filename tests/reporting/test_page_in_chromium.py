from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from chromium import look_at, print_page

from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.page import Page
from msdino_monai.reporting.picture import Picture

A4 = round((210 - 2 * 14) / 25.4 * 96)  # pixels between its margins


def full_page() -> Page:
    page = Page("All that a page can hold", lead="Every part, with long words.", badges=["synthetic"])
    page.section("Words")
    page.paragraph("A" * 300)
    page.commands(["python -m msdino_monai report --runs_dir " + "/a/very/long/path" * 12])
    page.facts([(f"figure {number}", 12345678 * number, "B" * 60) for number in range(5)])
    page.section("Tables")
    page.table([f"column {number}" for number in range(20)], [[f"{number} words" for number in range(20)]] * 3)
    page.section("Pictures")
    page.pictures([Picture(np.full((40, 900), 0.5), alt=f"grey {number}", caption="C" * 90) for number in range(3)])
    chart = Chart("Loss", "epoch", "loss").line("a", [1, 2, 3], [3, 2, 1]).svg()
    page.charts([(chart, "one"), (chart, "two")])
    page.drawing(chart, "wide", tall=chart)
    page.verdict("note", "D" * 120)
    return page


def test_page_fits_a_phone_and_a_desk_and_asks_for_nothing(tmp_path: Path) -> None:
    sight = look_at(full_page().save(tmp_path / "page.html"), tmp_path / "browser")
    assert [view.width for view in sight.views] == [360, 1200]
    for view in sight.views:
        assert view.scroll_width <= view.width
        assert view.wide == []
        assert view.pictures == 3
        assert view.broken == []
    assert sight.requests == []


def test_page_can_be_printed_with_its_pictures(tmp_path: Path) -> None:
    paper = print_page(full_page().save(tmp_path / "page.html"), tmp_path / "browser")
    assert paper.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 2
    assert len(re.findall(rb"/Subtype\s*/Image\b", paper)) >= 1


def test_widest_table_fits_on_paper(tmp_path: Path) -> None:
    """Printed, nothing scrolls: what sticks out of an A4 page is lost."""
    page = Page("Masks")
    page.section("Segmentation")
    header = ["run", "section", "class", "cases", "Dice", "95 % Hausdorff distance, mm", "missed", "false"]
    row = ["segmentation_from_scratch/hospital_a/test", "test", "right lung", 33, *["0.913 (0.874\u20130.946)"] * 2]
    page.table([*header, "false alarms a case"], [[*row, "2 of 33", "0 of 10", "0.240 (0.112\u20130.367)"]] * 3)
    html = page.html()
    assert "@media print" in html
    (tmp_path / "page.html").write_text(html.replace("@media print", "@media all"), encoding="utf-8")
    (paper,) = look_at(tmp_path / "page.html", tmp_path / "browser", widths=(A4,)).views
    assert paper.scroll_width <= A4


def test_the_browser_notices_a_page_that_calls_out_breaks_and_overflows(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><html><head><title>bad</title></head><body><img alt="gone" src="http://example.org/x.png">'
        '<div class="box" style="width:700px">wide</div></body></html>'
    )
    sight = look_at(page, tmp_path / "browser")
    phone, desk = sight.views
    assert phone.scroll_width > 360
    assert phone.wide == ["DIV.box"]
    assert desk.wide == []
    assert phone.broken == ["gone"]
    assert sight.requests == ["http://example.org/x.png"]
