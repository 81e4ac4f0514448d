"""A table is made in several sittings: what earlier ones found stays, or is made again and should be the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CELL = ("task", "fraction", "arm", "other", "where")  # what tells two entries of a summary apart
_ROW = ("task", "fraction", "arm", "site", "seed")


def join(path: Path, found: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """`found` (its `summary`, `rows`) and whatever the result file at `path` holds beyond it, by the same protocol.

    digests: of each task's protocol.
    """
    if not path.exists():
        return dict(found)
    before = json.loads(path.read_text(encoding="utf-8"))["results"]
    if any(row["protocol_sha256"] != digests[row["task"]] for row in before["rows"]):
        raise SystemExit(f"{path} holds rows of another protocol; name another --output_file.")
    summary = {
        part: [*_kept(before["summary"][part], entries, _CELL), *entries] for part, entries in found["summary"].items()
    }
    return {**found, "summary": summary, "rows": [*_kept(before["rows"], found["rows"], _ROW), *found["rows"]]}


def differing(rows: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """Which of these rows have other scores than the result file at `path` says; a row it lacks is refused."""
    published = {
        tuple(row[name] for name in _ROW): row["scores"]
        for row in json.loads(path.read_text(encoding="utf-8"))["results"]["rows"]
    }
    found = []
    for row in rows:
        key = tuple(row[name] for name in _ROW)
        name = ", ".join(map(str, key))
        if key not in published:
            raise SystemExit(f"{path} has no row {name}; name rows that it has.")
        if row["scores"] != published[key]:
            found.append(name)
    return found


def _kept(
    before: Sequence[dict[str, Any]], now: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    made = {tuple(entry.get(name) for name in names) for entry in now}
    return [entry for entry in before if tuple(entry.get(name) for name in names) not in made]
