"""The audit's figures as small charts: what the strongest attackers reach, beside what guessing gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msdino_monai.privacy.verdict import JOINED_VIEWS
from msdino_monai.reporting.chart import Chart

RowPage = Mapping[str, Any]  # a row as `Row.describe` gives it

_REACHED, _GUESSED = "strongest attack", "guessing"
_SHARES = {
    "joined rightly": ("jigsaw", "neighbours"),
    "placed rightly": ("places", "places"),
    "likeness, joined": ("jigsaw", "ssim"),
    "likeness, painted": ("learnt inverter", "ssim"),
    "found first": ("same image", "top-1"),
}
_FINDERS = {
    "same image": "same image",
    "same patient": "same patient",
    "a label": "attribute inference",
    "was in training": "membership",
}


def draw_charts(rows: Sequence[RowPage]) -> list[tuple[str, str]]:
    """Each an SVG and its caption; a chart that has nothing to show is left out."""
    drawn = [_shares(rows), _attackers(rows), _views(rows), _curves(rows)]
    return [each for each in drawn if each is not None]


def strongest(rows: Sequence[RowPage], metric: str, attack: str = "") -> RowPage | None:
    """The row of this metric, and of attacks that begin so, whose figure is highest."""
    asked = [
        row for row in rows if row["metric"] == metric and row["attack"].startswith(attack) and _is_known(row["figure"])
    ]
    return max(asked, key=lambda row: float(row["figure"])) if asked else None


def _shares(rows: Sequence[RowPage]) -> tuple[str, str] | None:
    made = [row for row in rows if row["attack"] != JOINED_VIEWS]  # nobody has reached an estimate
    found = {name: strongest(made, metric, attack) for name, (attack, metric) in _SHARES.items()}
    return _bars(
        "What the strongest attacks reach",
        "share, or likeness (SSIM)",
        found,
        "Joined: neighbouring patches. Placed: patches. Likeness is SSIM. Found: this image among the exported ones. "
        "1 is all. Thin lines are 95 % intervals over images.",
    )


def _attackers(rows: Sequence[RowPage]) -> tuple[str, str] | None:
    found = {
        row["attack"]
        .removeprefix("jigsaw by ")
        .replace(", learnt pairs and places", " and all learnt")
        .replace(", Gaussian pairs and places", " and Gaussian"): row
        for row in rows
        if row["metric"] == "neighbours" and _views_of(row) == 1 and _is_known(row["figure"])
    }
    shortened = {name.split(", of the tokens")[0]: row for name, row in found.items()}
    text = "The more the attacker knows, the better it should be: edges alone, then with what it learnt from others."
    return _bars("Neighbours, by what the jigsaw uses", "share of neighbours", shortened, text)


def _views(rows: Sequence[RowPage]) -> tuple[str, str] | None:
    """Neighbours against the number of views attacked together, if there are several."""
    asked = [row for row in rows if row["metric"] == "neighbours" and _is_known(row["figure"])]
    counts = sorted({count for row in asked if (count := _views_of(row))})
    if len(counts) < 2:
        return None
    best = [strongest([row for row in asked if _views_of(row) == count], "neighbours") for count in counts]
    known = [row for row in best if row is not None]
    low, high = zip(*[_interval(row) for row in known], strict=True)
    chart = Chart(
        "Neighbours, by the number of views", "views attacked together", "share of neighbours", y_range=(0, 1)
    )
    chart.line(_REACHED, counts, [row["figure"] for row in known], low, high)
    chart.line(_GUESSED, counts, [row["chance"] for row in known])
    images = " and ".join(str(n) for n in sorted({row["n"] for row in known}, reverse=True))
    return chart.svg(), f"Every view of an image shows a little of what the others drop. Of {images} images."


def identifying(rows: Sequence[RowPage]) -> dict[str, RowPage]:
    """The strongest of the attacks that want no picture, by what they find."""
    found = {name: strongest(rows, "AUC", attack) for name, attack in _FINDERS.items()}
    return {name: row for name, row in found.items() if row is not None}


def _curves(rows: Sequence[RowPage]) -> tuple[str, str] | None:
    found = identifying(rows)
    text = "0.5 is guessing, 1 is certainty. For a label: the one that is told best; see the table for all."
    return _bars("Who is it, what is known of them", "AUC", found, text)


def _bars(title: str, y_label: str, found: Mapping[str, RowPage | None], caption: str) -> tuple[str, str] | None:
    known = {name: row for name, row in found.items() if row is not None}
    if not known:
        return None
    low, high = zip(*[_interval(row) for row in known.values()], strict=True)
    chart = Chart(title, y_label=y_label, y_range=(0, 1.08))
    chart.bars(list(known), [_rounded(row["figure"]) for row in known.values()], low, high, _REACHED)
    chart.bars(list(known), [_rounded(row["chance"]) for row in known.values()], name=_GUESSED)
    return chart.svg(), caption


def _interval(row: RowPage) -> tuple[float, float]:
    """Its ends, inside the chart; where there is none, the figure itself."""
    low, high = row["interval"] or (row["figure"], row["figure"])
    return max(0.0, float(low)), min(1.0, max(0.0, float(high)))


def _rounded(figure: float) -> float:
    """As it is written on a bar."""
    return max(0.0, round(figure, 2))


def _views_of(row: RowPage) -> int:
    """How many views this jigsaw was of; 0 if it was none."""
    several = re.match(r"jigsaw of (\d+) views", row["attack"])
    return int(several[1]) if several else int(row["attack"].startswith("jigsaw by"))


def _is_known(figure: float | None) -> bool:
    return figure is not None and figure == figure
