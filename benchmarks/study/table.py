"""From rows to what a reader looks at: scores, paired differences, costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from cases import Cases
from measuring import report
from paired import Pair, Single, estimate
from protocol import ARMS, FEW, PRIMARY, TASKS, Protocol
from rows import Row
from said import Said, key_of

WHERE = ("own", "unseen")
AMONG_BASELINES = (
    *((arm, "local") for arm in ("fedavg", "pooled", "home", "central")),
    *(("central", other) for other in ("fedavg", "home")),
)


def summarise(rows: Sequence[Row], said: Said, protocol: Protocol) -> dict[str, Any]:
    """Means with intervals for every arm, task and share; differences to the baselines, and of those to `local`."""
    return {
        "scores": list(_scores(rows, protocol, said)),
        "differences": list(_differences(rows, protocol, said)),
        "costs": list(_costs(rows)),
    }


def tested(row: Row, where: str, protocol: Protocol) -> list[tuple[str, str]]:
    """Pairs of learner and tested hospital: a model of all stands for each learner."""
    return [(learner, learner if where == "own" else protocol.unseen) for learner in protocol.learners_of(row["site"])]


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, float, str, list[Row]]]:
    for task in TASKS:
        for fraction in sorted({row["fraction"] for row in rows}):
            for arm in ARMS:
                part = [row for row in rows if (row["task"], row["fraction"], row["arm"]) == (task, fraction, arm)]
                if part:
                    yield task, fraction, arm, part


def _scores(rows: Sequence[Row], protocol: Protocol, said: Said) -> Iterator[dict[str, Any]]:
    for task, fraction, arm, part in _groups(rows):
        entry: dict[str, Any] = {"task": task, "fraction": fraction, "arm": arm}
        for where in WHERE:
            models = [
                Single(row["seed"], said[key_of(row)][site]) for row in part for _, site in tested(row, where, protocol)
            ]
            entry[where] = asdict(estimate(models))
        yield entry


def _differences(rows: Sequence[Row], protocol: Protocol, said: Said) -> Iterator[dict[str, Any]]:
    baselines = ("local", "fedavg", "pooled", "home", "central")
    table = {(task, fraction, arm): part for task, fraction, arm, part in _groups(rows)}
    for (task, fraction, arm), ours in table.items():
        for other in baselines:
            theirs = table.get((task, fraction, other))
            if theirs is None or (arm in baselines and (arm, other) not in AMONG_BASELINES):
                continue
            for where in WHERE:
                pairs = list(_pairs(ours, theirs, where, protocol, said))
                primary = (arm, other) in PRIMARY and (task, fraction, where) == ("findings", FEW, "own")
                if pairs:
                    found = estimate(pairs, len(PRIMARY) if primary else 1)
                    yield {
                        "task": task, "fraction": fraction, "arm": arm, "other": other, "where": where,
                        "primary": primary, **asdict(found), "above": found.above,
                    }  # fmt: skip


def _pairs(ours: Sequence[Row], theirs: Sequence[Row], where: str, protocol: Protocol, said: Said) -> Iterator[Pair]:
    """Models of the two arms for the same learner and seed, on the same test images."""

    def by_learner(rows: Sequence[Row]) -> dict[tuple[int, str], Cases]:
        return {
            (row["seed"], learner): said[key_of(row)][site]
            for row in rows
            for learner, site in tested(row, where, protocol)
        }

    left, right = by_learner(ours), by_learner(theirs)
    for key in sorted(left.keys() & right.keys()):
        yield Pair(key[0], left[key], right[key])


def _costs(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for task, fraction, arm, part in _groups(rows):
        names = part[0]["cost"]
        means = {name: float(np.mean([row["cost"][name] for row in part])) for name in names}
        yield {"task": task, "fraction": fraction, "arm": arm, **means}


def show(summary: Mapping[str, Any]) -> None:
    lines = [
        [entry["task"], entry["fraction"], ARMS[entry["arm"]].title, *(_ranged(entry[where]) for where in WHERE)]
        for entry in summary["scores"]
    ]
    report(
        "Mean score over seeds (AUC of findings, Dice of masks), SYNTHETIC", ("task", "labels", "arm", *WHERE), lines
    )
    lines = [
        [
            f"{'*' if entry['primary'] else ' '} {entry['task']}", entry["fraction"], entry["where"],
            f"{entry['arm']} - {entry['other']}", entry["mean"], entry["low"], entry["high"],
            f"{entry['above']}/{len(entry['values'])}",
        ]
        for entry in summary["differences"]
    ]  # fmt: skip
    header = ("task", "labels", "tested on", "difference", "mean", "low", "high", "seeds above 0")
    report("Paired differences with 95 % intervals; * primary, corrected for their number", header, lines)


def _ranged(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
