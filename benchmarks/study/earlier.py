"""A table is made in several sittings: what earlier ones found stays, or is made again and should be the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from said import Key, key_of

Row = dict[str, Any]


def rows_of(output_file: Path) -> list[Row]:
    """Those of a result file."""
    rows: list[Row] = json.loads(output_file.read_text(encoding="utf-8"))["results"]["rows"]
    return rows


def join(output_file: Path, rows: Sequence[Row], digests: Mapping[str, str]) -> list[Row]:
    """What the result file holds beyond these rows, then these rows; `digests` are of each task's protocol."""
    before = rows_of(output_file)
    if any(row["protocol_sha256"] != digests[row["task"]] for row in before):
        raise SystemExit(f"{output_file} holds rows of another protocol; name another --output_file.")
    made = {key_of(row) for row in rows}
    return [*(row for row in before if key_of(row) not in made), *rows]


def differing(rows: Sequence[Row], output_file: Path) -> list[Key]:
    """Which of these rows have other scores in the result file; one that it lacks is refused."""
    published = {key_of(row): row["scores"] for row in rows_of(output_file)}
    if missing := [key_of(row) for row in rows if key_of(row) not in published]:
        raise SystemExit(f"{output_file} has no row {missing[0]}; name rows that it has.")
    return [key_of(row) for row in rows if row["scores"] != published[key_of(row)]]
