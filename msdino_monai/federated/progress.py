"""What the verb `federate` prints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msdino_monai.federated.ledger import TRAFFIC_FILE


def print_round(entry: Mapping[str, Any], report: Mapping[str, Any], elapsed: float) -> None:
    number, last = entry["round"], report["rounds"]
    done = number - report["resumed_after"]
    left = timedelta(seconds=round(elapsed / done * (last - number)))
    key = report["key_metric"]
    words = []
    for name, row in entry["sites"].items():
        if row["error"]:
            words.append(f"{name} left out: {row['error']}")
        elif (value := row["metrics"].get(key)) is not None:
            words.append(f"{name} {value:.4f}")
    spent = timedelta(seconds=round(elapsed))
    print(
        f"Round {number}/{last}: {entry['aggregated']} of {entry['of']} sites aggregated; {key} before it: "
        f"{', '.join(words) or 'undefined'}; {spent} elapsed, {left} left.",
        flush=True,
    )


def print_end(report: Mapping[str, Any], output: Path) -> None:
    from msdino_monai.federated.traffic import table

    key, sites = report["key_metric"], report["sites"]
    print(f"\n{key} of the global model, on each site's validation data:")
    print("round " + " ".join(f"{name:>14}" for name in [*sites, "mean"]))
    for entry in report["validation"]:
        values = [entry["sites"].get(name, {}).get(key) for name in sites] + [entry["mean"].get(key)]
        print(
            f"{entry['round']:>5} "
            + " ".join("             -" if each is None else f"{each:>14.4f}" for each in values)
        )
    print(f"\nBytes:\n{table(report['traffic'])}")
    best = report["best"]
    print(f"\nThe global model after round {best['round']} is the best: {output / 'global'}")
    print(f"All rounds: {output / 'federated.json'}; all bytes: {output / TRAFFIC_FILE}")
