"""A table is made in several sittings: what earlier ones found stays, and what is made again should be the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from said import key_of

Row = dict[str, Any]


def published(output_file: Path, digests: Mapping[str, str]) -> list[Row]:
    """The rows of a result file; `digests` are those of each task's protocol, and rows of another one are refused."""
    try:
        rows: list[Row] = json.loads(output_file.read_text(encoding="utf-8"))["results"]["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{output_file} is no result file of the study ({error}).") from None
    if any(row["protocol_sha256"] != digests[row["task"]] for row in rows):
        raise SystemExit(
            f"{output_file} holds rows of another protocol; give the --size and hospitals they were made with, "
            "or another --output_file."
        )
    return rows


def join(before: Sequence[Row], rows: Sequence[Row], *, replace: bool = False) -> list[Row]:
    """What was there and is not made now, then these rows; in place of one with other scores only to `replace` it."""
    made = {key_of(row) for row in rows}
    if not replace and (found := differing(rows, before)):
        raise SystemExit(
            "\n".join(["These rows are published with other scores; --replace takes the new ones:", *found])
        )
    return [*(row for row in before if key_of(row) not in made), *rows]


def differing(rows: Sequence[Row], before: Sequence[Row]) -> list[str]:
    """Which of these rows were there with other scores."""
    published_as = {key_of(row): row for row in before}
    found = []
    for row in rows:
        other = published_as.get(key_of(row), row)
        both = other["scores"].keys() & row["scores"].keys()  # rows were once tested on every hospital
        if any(other["scores"][site] != row["scores"][site] for site in both):
            code = "" if other["code_sha256"] == row["code_sha256"] else " (made by other code)"
            found.append(", ".join(map(str, key_of(row))) + code)
    return found
