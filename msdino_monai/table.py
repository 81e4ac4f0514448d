"""Rows of numbers as CSV: the course of a training."""

from __future__ import annotations

import csv
import io


def columns(rows: list[dict[str, float]]) -> list[str]:
    """Every name that occurs, in the order of first occurrence: probes do not run every epoch."""
    return list(dict.fromkeys(name for row in rows for name in row))


def as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    return text.getvalue()
