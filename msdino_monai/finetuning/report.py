"""What a run leaves to read: metrics as JSON, cases as CSV; whole or absent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msdino_monai.plain import plain
from msdino_monai.vault.atomic import make_folder, write_file


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write JSON; what is not a finite number (undefined) is null, never 0."""
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    return _write(path, f"{text}\n".encode())


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Path:
    """Write rows under the columns given, or all that occur; what is undefined stays empty."""
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in names} for row in rows)
    return _write(path, text.getvalue().encode())


def write_picture(path: str | Path, figure: Any) -> Path:
    """Write a matplotlib figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return _write(path, buffer.getvalue())


def _cell(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _write(path: str | Path, data: bytes) -> Path:
    path = Path(path).expanduser()
    make_folder(path.parent)
    write_file(path, data)
    return path
