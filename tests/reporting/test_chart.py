from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from msdino_monai.reporting.axis import Axis, short
from msdino_monai.reporting.chart import Chart
from msdino_monai.reporting.forest import draw_forest

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn_lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every series: their lines alone are two units wide."""
    return [
        [tuple(map(float, point.split())) for point in path.attrib["d"][1:].split("L")]  # type: ignore[misc]
        for path in ET.fromstring(svg).iter(f"{SVG}path")
        if path.attrib["stroke-width"] == "2"
    ]


def test_line_goes_where_the_axes_say() -> None:
    svg = Chart("t", x_range=(0, 10), y_range=(0, 100)).line("a", [0, 5, 10], [0, 50, 100]).svg()
    ((x0, y0), (x1, y1), (x2, y2)) = drawn_lines(svg)[0]
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y1 == pytest.approx((y0 + y2) / 2)
    assert y0 > y2  # down the sheet is down the axis
    assert x0 < x2


def test_logarithmic_axis_gives_equal_room_to_every_decade() -> None:
    svg = Chart("t", x_scale="log", y_scale="log").line("a", [1, 10, 100, 1000], [2, 20, 200, 2000]).svg()
    points = drawn_lines(svg)[0]
    steps = [after[0] - before[0] for before, after in itertools.pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert {"1", "10", "100", "1000"} <= set(texts(svg))


def test_line_is_broken_where_nothing_was_measured() -> None:
    lines = drawn_lines(Chart("t").line("a", [1, 2, 3, 4, 5], [1, 2, float("nan"), 4, 5]).svg())
    assert [len(line) for line in lines] == [2, 2]
    assert drawn_lines(Chart("t", y_scale="log").line("a", [1, 2, 3], [0, 1, 2]).svg())[0][0][0] > 60


def test_single_point_is_seen() -> None:
    root = ET.fromstring(Chart("t").line("a", [1], [3]).svg())
    assert len(list(root.iter(f"{SVG}circle"))) == 1


def test_interval_is_a_band_around_the_line() -> None:
    root = ET.fromstring(Chart("t").line("a", [1, 2], [3, 4], low=[2, 3], high=[4, 6]).svg())
    (band,) = root.iter(f"{SVG}polygon")
    assert len(band.attrib["points"].split()) == 4


def test_bars_stand_on_zero_beside_each_other() -> None:
    chart = Chart("t").bars(["x", "y"], [1, 2], [0.5, 1.5], [1.5, 2.5], name="a").bars(["x", "y"], [3, 4], name="b")
    root = ET.fromstring(chart.svg())
    bars = [each.attrib for each in root.iter(f"{SVG}rect") if each.attrib.get("opacity")]
    feet = {round(float(each["y"]) + float(each["height"])) for each in bars}
    assert len(bars) == 4
    assert len(feet) == 1
    heights = [float(each["height"]) for each in bars]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    left = [float(each["x"]) for each in bars]
    assert left[0] < left[2] < left[1] < left[3]
    with pytest.raises(ValueError, match="share their labels"):
        chart.bars(["z"], [1])


def test_series_differ_in_more_than_colour() -> None:
    svg = Chart("t").line("a", [1, 2], [1, 2]).line("b", [1, 2], [2, 3]).line("c", [1, 2], [3, 4]).svg()
    dashes = re.findall(r'stroke-width="2"[^/]*?(?:stroke-dasharray="([^"]*)")?/>', svg)
    assert len(set(dashes)) == 3
    assert {"a", "b", "c"} <= set(texts(svg))


def test_words_are_escaped_and_the_chart_can_be_read_aloud() -> None:
    svg = Chart("<b> & co", x_label="a<b", y_label="y").line("one", [1, 2], [1, 2]).mark(1.5, "here & now").svg()
    assert {"<b> & co", "a<b", "here & now"} <= set(texts(svg))
    assert ET.fromstring(svg).attrib["aria-label"] == "Chart: <b> & co. y against a<b: one."


def test_empty_chart_and_equal_values_are_drawn() -> None:
    assert texts(Chart("nothing").svg())[0] == "nothing"
    assert drawn_lines(Chart("flat").line("a", [1, 2], [5, 5]).svg())
    assert drawn_lines(Chart("flat", x_scale="log").line("a", [3, 3], [5, 6]).svg())


def test_series_of_unequal_length_is_refused() -> None:
    with pytest.raises(ValueError, match="as many y"):
        Chart("t").line("a", [1, 2], [1])
    with pytest.raises(ValueError, match="as many y"):
        Chart("t").line("a", [1, 2], [1, 2], low=[1, 2])


@pytest.mark.parametrize("span", [(0, 1), (0.2, 0.9), (1, 40), (-3, 12.5), (0, 7e9), (1e-6, 3e-6)])
def test_an_axis_names_a_handful_of_round_values(span: tuple[float, float]) -> None:
    ticks = Axis(*span, 0, 100, "linear").ticks()
    assert 3 <= len(ticks) <= 9
    assert all(span[0] - 1e-9 <= value <= span[1] * (1 + 1e-9) for value, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1000, "1000"), (12_000, "12k"), (3.2e6, "3.2M"), (4e9, "4G"), (0.05, "0.05")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_forest_has_a_point_and_an_interval_for_each_defined_figure() -> None:
    nan = float("nan")
    svg = draw_forest("AUC", "AUC", ["a", "b & c", "d"], [0.25, 0.75, nan], [0.0, nan, nan], [0.5, nan, nan])
    root = ET.fromstring(svg)
    first, second = (float(each.attrib["cx"]) for each in root.iter(f"{SVG}circle"))
    ((left, _), (right, _)) = drawn_lines(svg)[0]
    assert len(drawn_lines(svg)) == 1
    assert first == pytest.approx((left + right) / 2)
    assert second - first == pytest.approx(right - left)
    assert {"a", "b & c", "d", "0.250", "0.750", "undefined"} <= set(texts(svg))


def test_forest_of_unequal_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 2 names"):
        draw_forest("t", "x", ["a", "b"], [1], [1], [1])


def test_points_have_whiskers_and_a_mark_its_line() -> None:
    svg = Chart("t").points("a", [1, 2], [3, 4], low=[2, 3], high=[4, 6]).mark(1.5, "here").svg()
    root = ET.fromstring(svg)
    assert len(list(root.iter(f"{SVG}circle"))) == 2
    assert sum(each.attrib["stroke-width"] == "1.5" for each in root.iter(f"{SVG}path")) == 2
    assert sum(each.attrib.get("stroke-dasharray") == "4 3" for each in root.iter(f"{SVG}path")) == 1
