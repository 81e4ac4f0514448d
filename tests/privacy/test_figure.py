"""The charts of the audit's page."""

from __future__ import annotations

from typing import Any

from msdino_monai.privacy.figure import draw_charts
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.row import row_of_values


def row(attack: str, metric: str, values: list[float], chance: float = 0.02) -> dict[str, Any]:
    return row_of_values(attack, metric, Knowledge(), values, chance).describe()


def test_chart_of_views_shows_the_strongest_attack_at_each_number() -> None:
    rows = [
        row("jigsaw by edges", "neighbours", [0.1, 0.1, 0.1]),
        row("jigsaw by edges and learnt pairs", "neighbours", [0.2, 0.2, 0.2]),
        row("jigsaw of 2 views together by edges", "neighbours", [0.3, 0.4, 0.5]),
        row("jigsaw of 12 views together by edges", "neighbours", [0.6, 0.7, 0.8]),
    ]
    titles = [svg.split("</text>")[0].rsplit(">", 1)[1] for svg, _ in draw_charts(rows)]
    assert titles == [
        "What the strongest attacks reach",
        "Neighbours, by what the jigsaw uses",
        "Neighbours, by the number of views",
    ]
    of_views = draw_charts(rows)[2][0]
    assert of_views.count("<polygon") == 1, "the interval of the attack"
    assert "strongest attack" in of_views
    assert "guessing" in of_views
    assert len(draw_charts(rows[:2])) == 2, "one view: no chart of views"


def test_figure_that_is_not_defined_is_left_out() -> None:
    assert draw_charts([row("jigsaw by edges", "neighbours", [float("nan")] * 3)]) == []
