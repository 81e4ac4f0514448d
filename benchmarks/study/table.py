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
BASELINES = ("local", "fedavg", "pooled", "home", "central")
COMPARED = (
    *((arm, "local") for arm in BASELINES[1:]),
    *(("central", other) for other in ("fedavg", "home")),
    *((arm, other) for arm in ARMS if arm not in BASELINES for other in BASELINES),
    *(("msdino_codes", "msdino"), ("msdino_open", "msdino"), ("msdino_codes", "msdino_open")),
)
# Could anything pass the second primary comparison? It is corrected as if it were one.
UPPER_BOUND = {"task": "findings", "fraction": FEW, "arm": "central", "other": "fedavg", "where": "own"}
# Class by class: who gains on which finding.
BY_CLASS = (("home", "local"), ("central", "local"), *((arm, "local") for arm in ARMS if arm.startswith("msdino")))


def summarise(rows: Sequence[Row], said: Said, protocol: Protocol) -> dict[str, Any]:
    """Means with intervals for every arm, task and share; paired differences, and some of them class by class."""
    return {
        "scores": list(_scores(rows, protocol, said)),
        "differences": list(_differences(rows, protocol, said)),
        "class_differences": list(_class_differences(rows, protocol, said)),
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
    for about, pairs in _compared(rows, COMPARED, protocol, said):
        primary = (about["arm"], about["other"]) in PRIMARY and (
            (about["task"], about["fraction"], about["where"]) == ("findings", FEW, "own")
        )
        found = estimate(pairs, len(PRIMARY) if primary else 1)
        entry = {**about, "primary": primary, **asdict(found), "above": found.above}
        if about == UPPER_BOUND:
            corrected = estimate(pairs, len(PRIMARY))
            entry["corrected"] = {"mean": corrected.mean, "low": corrected.low, "high": corrected.high}
        yield entry


def _class_differences(rows: Sequence[Row], protocol: Protocol, said: Said) -> Iterator[dict[str, Any]]:
    for about, pairs in _compared(rows, BY_CLASS, protocol, said):
        for name in pairs[0].ours.classes:
            found = estimate([Pair(pair.seed, pair.ours.only(name), pair.theirs.only(name)) for pair in pairs])
            yield {**about, "class": name, **asdict(found), "above": found.above}


def _compared(
    rows: Sequence[Row], chosen: Sequence[tuple[str, str]], protocol: Protocol, said: Said
) -> Iterator[tuple[dict[str, Any], list[Pair]]]:
    """What is compared, and the models of both sides."""
    table = {(task, fraction, arm): part for task, fraction, arm, part in _groups(rows)}
    for task, fraction, arm in table:
        for other in (other for one, other in chosen if one == arm and (task, fraction, other) in table):
            for where in WHERE:
                both = table[task, fraction, arm], table[task, fraction, other]
                if pairs := list(_pairs(*both, where, protocol, said)):
                    yield {"task": task, "fraction": fraction, "arm": arm, "other": other, "where": where}, pairs


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
        whole = [row["cost"] for row in part if not row["cost"].get("resumed")] or [row["cost"] for row in part]
        means = {name: float(np.mean([cost[name] for cost in whole])) for name in whole[0] if name != "resumed"}
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
