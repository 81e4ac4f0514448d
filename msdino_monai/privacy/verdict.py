"""The verdict: the strongest attacker's figures against the hospital's thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msdino_monai.errors import UserError
from msdino_monai.numbers import check_shares
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.leak import content_leaks, order_leaks, value_leaks
from msdino_monai.privacy.row import Row, row_of_values
from msdino_monai.privacy.sample import Sample

ORDER_IN_FILE = "order in the file"
JOINED_VIEWS = "jigsaw of every view, joined wherever views overlap or abut (an estimate)"


@dataclass(frozen=True)
class Threshold:
    """The most a figure may reach, among rows of a metric whose attack begins with these words.

    `usual` is what the configuration begins with (docs/privacy-audit.md says why), None where it does not ask.
    """

    attack: str
    metric: str
    words: str
    usual: float | None = None


THRESHOLDS = {
    "max_order_leaks": Threshold(
        ORDER_IN_FILE, "images whose files tell too much", "images whose files tell more than they should", 0.0
    ),
    "max_neighbour_accuracy": Threshold("jigsaw", "neighbours", "neighbouring patches put together rightly", 0.2),
    "max_direct_position_accuracy": Threshold(
        "places of tokens", "places", "tokens whose place is guessed directly", 0.2
    ),
    "max_ssim_after_solver": Threshold("jigsaw", "ssim", "likeness (SSIM) of the picture put together", 0.45),
    "max_ssim_of_inverter": Threshold("learnt inverter", "ssim", "likeness (SSIM) of the picture painted at once"),
}


# What the configuration begins with: less of it, and a verdict "passed" says less.
STRENGTH = {"max_images": 12, "max_exported_images": 48, "max_auxiliary_images": 480, "training_steps": 1500}


@dataclass(frozen=True)
class Check:
    """One threshold, and the strongest figure it was held against."""

    name: str
    limit: float
    figure: float
    attack: str
    upper: float | None

    @property
    def is_met(self) -> bool:
        return self.figure <= self.limit

    @property
    def is_close(self) -> bool:
        """Met, but the interval reaches beyond: other images might have failed."""
        return self.is_met and self.upper is not None and self.upper > self.limit

    def describe(self) -> dict[str, Any]:
        figures = {"figure": round(self.figure, 6), "upper": None if self.upper is None else round(self.upper, 6)}
        return {"threshold": self.name, "limit": self.limit, **figures, "attack": self.attack, "met": self.is_met}

    def in_words(self) -> str:
        words = THRESHOLDS[self.name].words
        guessed = ", by estimate," if self.attack == JOINED_VIEWS else ""
        return f"{words}{guessed} {self.figure:.3f} > {self.limit:g} (--{self.name})"


@dataclass(frozen=True)
class Verdict:
    """Every threshold with a limit, checked; a failed one fails the whole."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.is_met for check in self.checks)

    def describe(self) -> dict[str, Any]:
        return {"result": "pass" if self.passed else "fail", "checks": [check.describe() for check in self.checks]}

    def in_words(self) -> str:
        """One line."""
        failed = [check.in_words() for check in self.checks if not check.is_met]
        if failed:
            return f"the privacy audit FAILED: {'; '.join(failed)}"
        close = [check.name for check in self.checks if check.is_close]
        more = f"; more images (--max_images) would make {' and '.join(close)} surer" if close else ""
        return f"the privacy audit passed{more}"


def judge(rows: Sequence[Row], limits: Mapping[str, float | None]) -> Verdict:
    """Hold the strongest row of each kind against its limit; a limit of None is not asked."""
    return Verdict(tuple(_checks(rows, limits)))


def check_limits(limits: Mapping[str, Any]) -> dict[str, float | None]:
    """The thresholds as numbers; anything else is refused before the work begins."""
    if unknown := limits.keys() - THRESHOLDS.keys():
        raise ValueError(f"thresholds are {', '.join(THRESHOLDS)}, got {', '.join(sorted(unknown))}.")
    given = {name: limit for name, limit in limits.items() if limit is not None}
    check_shares(**given)
    if large := [name for name, limit in given.items() if limit > 1]:
        raise UserError(f"--{large[0]} is a share: at most 1, got {given[large[0]]:g}.")
    return {**dict.fromkeys(limits), **{name: float(limit) for name, limit in given.items()}}


def loosened(limits: Mapping[str, float | None]) -> list[str]:
    """Thresholds that are weaker than usual, or not asked."""
    asked = {name: (limits.get(name), each.usual) for name, each in THRESHOLDS.items() if each.usual is not None}
    return [name for name, (limit, usual) in asked.items() if limit is None or limit > usual]


def weakened(used: Mapping[str, int]) -> list[str]:
    """In words, of which the attackers had less than usual: images they saw, steps they trained."""
    return [f"{name} {used[name]} of {usual}" for name, usual in STRENGTH.items() if used[name] < usual]


def _checks(rows: Sequence[Row], limits: Mapping[str, float | None]) -> Iterator[Check]:
    for name, limit in limits.items():
        if limit is None:
            continue
        threshold = THRESHOLDS[name]
        asked = [row for row in rows if row.metric == threshold.metric and row.attack.startswith(threshold.attack)]
        known = [row for row in asked if np.isfinite(row.figure)]
        if not known:
            raise UserError(
                f"--{name} cannot be judged: too few patches of the sample can be told apart; audit other images."
            )
        strongest = max(known, key=lambda row: row.figure)
        upper = strongest.interval[1] if strongest.interval else None
        yield Check(name, limit, strongest.figure, strongest.attack, upper)


def look_at_order(sample: Sample, *, seed: int = 0) -> tuple[Row, list[str]]:
    """Whether the files tell more than fresh shuffles of what was embedded would; and in which ways.

    A second export of the same images is looked at together with the first: neither shuffle nor noise may come back.
    """
    exports = [sample] if sample.again is None else [sample, sample.again]
    tokens = np.concatenate([each.evidence.tokens for each in exports], axis=1)  # (B, V, K, D) each
    views = np.concatenate([each.views for each in exports], axis=1)
    orders = np.concatenate([each.orders for each in exports], axis=1)
    opened = sample.evidence
    looks = (
        order_leaks(orders, opened.embedder.grid),
        content_leaks(tokens),
        value_leaks(tokens, views, orders, opened.embedder, noise=opened.noise, dtype=opened.dtype),
    )
    leaking = np.any([which for which, _ in looks], axis=0)
    ways = [name for _, names in looks for name in names]
    for each in exports:
        leaking, ways = leaking | bool(each.file_leaks), [*ways, *each.file_leaks]
    metric = THRESHOLDS["max_order_leaks"].metric
    values = leaking.astype(float).tolist()
    return row_of_values(ORDER_IN_FILE, metric, Knowledge(), values, 0.0, seed=seed), sorted(set(ways))
