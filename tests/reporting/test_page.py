from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.reporting.page import Page
from msdino_monai.reporting.picture import Picture

NASTY = "<script>alert('x')</script> & \"more\""
DRAWING = '<svg viewBox="0 0 10 10"><rect width="10" height="10"/></svg>'


class Reader(HTMLParser):
    """The tags of a page, and a complaint if they are not closed in turn."""

    EMPTY = frozenset({"meta", "link", "img", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def everything() -> Page:
    page = Page(NASTY, lead=NASTY, badges=[NASTY], footer=NASTY)
    page.section(NASTY)
    page.heading(NASTY)
    page.paragraph(NASTY)
    page.missing(NASTY)
    page.facts([(NASTY, NASTY, NASTY), ("views", 4)])
    page.table([NASTY, "n"], [[NASTY, 1], ["b", None]], caption=NASTY)
    page.pictures([Picture(np.zeros((4, 6)), alt=NASTY, caption=NASTY)])
    page.section("second")
    page.verdict("fail", NASTY, NASTY)
    page.commands([NASTY])
    page.charts([(DRAWING, NASTY)])
    page.drawing(DRAWING, NASTY, tall=DRAWING)
    return page


def test_every_part_is_escaped() -> None:
    html = everything().html()
    names = Reader(html).names()
    assert "script" not in names
    assert {"nav", "dl", "table", "img", "pre", "svg", "h3"} <= set(names)
    assert html.count("&lt;script&gt;") >= 20


def test_contents_lead_to_every_section() -> None:
    tags = Reader(everything().html()).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "section"] == ["#part-1", "#part-2"]


def test_page_names_no_address_outside_itself() -> None:
    tags = Reader(everything().html()).tags
    addresses = [value or "" for _, each in tags for name, value in each.items() if name in ("src", "href", "srcset")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|url\(", everything().html())


@pytest.mark.parametrize(
    "drawing",
    [
        "<svg><script>1</script></svg>",
        '<svg><image href="x.png"/></svg>',
        '<svg onload="x()"></svg>',
        '<svg><rect fill="url(http://example.org)"/></svg>',
        "<p>no drawing</p>",
        "<svg></svg><p>",
    ],
)
def test_drawing_that_runs_or_loads_is_refused(drawing: str) -> None:
    with pytest.raises(ValueError, match="a drawing is one <svg>"):
        Page("title").drawing(drawing)


def test_columns_of_numbers_are_aligned_right() -> None:
    page = Page("title")
    page.table(["site", "images", "Dice"], [["a", 12345, "0.81 (0.7\u20130.9)"], ["7", None, 0.5]])
    html = page.html()
    assert '<td>a</td><td class="number">12\u202f345</td><td class="number">0.81 (0.7\u20130.9)</td>' in html
    assert '<td>7</td><td class="number">\u2013</td><td class="number">0.500</td>' in html


def test_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Page("title").table(["a", "b"], [["one"]])


def test_undefined_number_is_a_dash() -> None:
    page = Page("title")
    page.facts([("AUC", float("nan")), ("loss", None), ("ready", True)])
    assert re.findall(r"<dd>(.*?)</dd>", page.html()) == ["\u2013", "\u2013", "yes"]


def pixels(html: str) -> np.ndarray:
    found = re.search(r'base64,([^"]+)"', html)
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_array_comes_back_from_the_page() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    page = Page("title")
    page.pictures([Picture(grey, alt="noise")])
    assert np.array_equal(pixels(page.html()), grey)
    assert np.array_equal(pixels(Picture(grey / 255, alt="noise").html()), grey)
    colour = np.stack([grey, grey // 2, 255 - grey], axis=2)
    assert np.array_equal(pixels(Picture(colour, alt="noise").html()), colour)


def test_file_goes_in_as_it_is_unless_it_is_too_wide(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((20, 100), dtype=np.uint8)).save(path)
    kept = Picture(path, alt="black").html()
    assert base64.b64encode(path.read_bytes()).decode() in kept
    assert 'width="100" height="20"' in kept
    assert 'width="50" height="10"' in Picture(path.read_bytes(), alt="black", widest=50).html()


def test_broken_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match=r"cut\.png is not a whole PNG"):
        Picture(path, alt="cut").html()
    with pytest.raises(UserError, match="cannot read"):
        Picture(tmp_path / "none.png", alt="none").html()


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5)), np.zeros(4), np.zeros((4, 4), dtype=np.int32)])
def test_array_that_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture is"):
        Picture(array, alt="none").html()


def test_save_replaces_a_page_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    Page("first").save(path)
    assert Page("second").save(path) == path
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_save_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*check the path"):
        Page("title").save(tmp_path / "file" / "report.html")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
