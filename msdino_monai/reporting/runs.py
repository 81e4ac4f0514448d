"""The runs below a folder, told apart by the files they leave."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError, one_line

# Keys and a site's secrets are never opened; the others hold settings or many files, and no result.
_LEFT_OUT = frozenset(
    {"keys", "configs", "images", "masks", "shards", "checkpoints", "tensorboard", "flare", "updates", "explanations"}
)
_RECEIPT = frozenset({"manifest_sha256", "is_verified", "received_with"})
_NOTE = frozenset({"command", "seed", "hardware", "versions"})  # others, too, may call a file run.json
_LARGEST_RECEIPT = 64_000


@dataclass(frozen=True)
class Run:
    """One run: its folder, its name for readers (the path below the folder of all runs), and what its file says."""

    folder: Path
    name: str
    content: dict[str, Any]

    def file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None


@dataclass
class Runs:
    """Everything found, in the order of the paths; `unreadable` says which files were no use and why.

    `pictures` is off where a page must not show what patients' images hold.
    """

    root: Path
    pictures: bool = True
    cohorts: list[Run] = field(default_factory=list)
    surveys: list[Run] = field(default_factory=list)
    exports: list[Run] = field(default_factory=list)
    receipts: list[Run] = field(default_factory=list)
    audits: list[Run] = field(default_factory=list)
    pretrainings: list[Run] = field(default_factory=list)
    models: list[Run] = field(default_factory=list)
    curves: list[Run] = field(default_factory=list)
    notes: list[Run] = field(default_factory=list)
    classifications: list[Run] = field(default_factory=list)
    segmentations: list[Run] = field(default_factory=list)
    predictions: list[Run] = field(default_factory=list)
    federations: list[Run] = field(default_factory=list)
    commands: list[Run] = field(default_factory=list)
    stages: list[Run] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        """Whether every cohort found says that it is drawn, not taken from patients."""
        said = [str(cohort.content.get("description", "")) for cohort in self.cohorts]
        return bool(said) and all(each.startswith("SYNTHETIC") for each in said)

    def any(self) -> bool:
        return any(isinstance(each, list) and each for name, each in vars(self).items() if name != "unreadable")


def find_runs(root: str | Path, pictures: bool = True) -> Runs:
    """Walk a folder; what cannot be read is noted, not raised."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"'{root}' is not a folder; name the one that holds the runs.")
    runs = Runs(root, pictures)
    for place, folders, files in os.walk(root):
        folder = Path(place)
        inside = _LEFT_OUT | ({"sites", "state"} if "federated.json" in files else set())
        folders[:] = sorted(name for name in folders if name not in inside and not name.startswith("."))
        for path in (folder / name for name in sorted(files)):
            try:
                if path.is_file():  # and no link to nothing, no pipe
                    _take(runs, path)
            except OSError as error:
                runs.unreadable.append(f"{path.relative_to(root).as_posix()}: {one_line(error)}")
    # A bundle made ready for others holds copies: the last one, where it was trained, tells of it.
    runs.models = [run for place, run in enumerate(runs.models) if not _again(run, runs.models[place + 1 :])]
    return runs


def _again(run: Run, others: list[Run]) -> bool:
    return any(run.content == other.content for other in others)


def _take(runs: Runs, path: Path) -> None:
    """Put a file among the runs it tells of, if it tells of any."""
    known = {
        "cohort.json": (runs.cohorts, ("description",)),
        "volumes.json": (runs.cohorts, ("description",)),
        "survey.json": (runs.surveys, ("files", "usable")),
        "manifest.json": (runs.exports, ("num_tokens", "embedding_dim", "num_views", "dtype", "counts")),
        "audit.json": (runs.audits, ("verdict",)),
        "federated.json": (runs.federations, ("history", "sites", "rounds")),
        "model.network.json": (runs.models, ("network",)),
        "predictions.json": (runs.predictions, ("predictions",)),
        "command.json": (runs.commands, ("arguments",)),
        "finished.json": (runs.stages, ("stages",)),
    }
    if path.name in known:
        kind, names = known[path.name]
        if (content := _object(runs, path, names)) is not None:
            kind.append(Run(path.parent, _name(runs, path), content))
    elif path.name == "metrics.json":
        if (content := _object(runs, path, ("classes",))) is not None:
            kind = runs.segmentations if "mean_dice" in content else runs.classifications
            kind.append(Run(path.parent, _name(runs, path), content))
    elif path.name == "run.json":
        if isinstance(content := _loaded(path), dict) and content.keys() >= _NOTE:
            runs.notes.append(Run(path.parent, _name(runs, path), content))
    elif path.name == "curves.csv" and _first_line(path).startswith("epoch,loss,val_"):
        runs.curves.append(Run(path.parent, _name(runs, path), {}))
    elif path.name == "curves.csv":
        model = path.parent / "models" / "model.json"
        content = _object(runs, model, ()) if model.is_file() else {}
        runs.pretrainings.append(Run(path.parent, _name(runs, path), content or {}))
    elif path.name == "commands.txt":
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        runs.commands.append(Run(path.parent, _name(runs, path), {"lines": [line for line in lines if line]}))
    elif path.suffix == ".json" and path.stat().st_size <= _LARGEST_RECEIPT:
        content = _loaded(path)
        if isinstance(content, dict) and content.keys() >= _RECEIPT:
            runs.receipts.append(Run(path.parent, _name(runs, path.with_suffix("") / "file"), content))


def _name(runs: Runs, path: Path) -> str:
    name = path.parent.relative_to(runs.root).as_posix()
    return runs.root.resolve().name if name == "." else name


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return error


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline()


def _object(runs: Runs, path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """A JSON object with these names, or a note of what is wrong with it."""
    content = _loaded(path)
    shown = path.relative_to(runs.root).as_posix()
    if isinstance(content, Exception):
        runs.unreadable.append(f"{shown}: {one_line(content)}")
    elif not isinstance(content, dict) or (missing := [name for name in names if name not in content]):
        why = f"it says nothing of {', '.join(missing)}" if isinstance(content, dict) else "it holds no JSON object"
        runs.unreadable.append(f"{shown}: {why}")
    else:
        return content
    return None


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}); make it again or take it away.") from error


def number(text: Any) -> float:
    """A cell as a number; NaN where there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def figure(content: Any) -> tuple[float, float, float]:
    """A metric as our reports write it, {value, interval}: the value and both ends, NaN where undefined."""
    if not isinstance(content, dict):
        return math.nan, math.nan, math.nan
    low, high = content.get("interval") or (math.nan, math.nan)
    return number(content.get("value")), number(low), number(high)


def with_interval(content: Any) -> str | None:
    """A metric in words: value and, if there is one, its interval."""
    value, low, high = figure(content)
    if not math.isfinite(value):
        return None
    return f"{value:.3f} ({low:.3f}\u2013{high:.3f})" if math.isfinite(low) else f"{value:.3f}"


def in_bytes(count: float) -> str:
    """Bytes in the unit that reads best, powers of a thousand."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} bytes"
