"""How a data set lies in its folder, its tables, and what to say when it does not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from msdino_monai.errors import UserError


@dataclass(frozen=True)
class Layout:
    """A data set's published layout: what its folder is known by, and what should lie in it."""

    name: str
    markers: tuple[str, ...]  # any one of these tells the folder
    expected: str

    def find(self, root: str) -> Path:
        """The data set's folder: `root` itself, or the only folder in it that looks like the data set."""
        top = Path(str(root)).expanduser()
        if not top.is_dir():
            raise UserError(f"--root {str(root)!r} is not a folder; give the folder that holds the data set.")
        if self._is_here(top):
            return top
        inside = [folder for folder in listing(top) if folder.is_dir() and self._is_here(folder)]
        if len(inside) > 1:
            names = ", ".join(folder.name for folder in inside)
            raise UserError(f"--root {root} holds {self.name} several times ({names}); give one of these folders.")
        if not inside:
            raise self.refusal(top, f"no {self.name} data in --root {root}")
        return inside[0]

    def refusal(self, folder: Path, what: str) -> UserError:
        """The error for a folder that is not as published."""
        names = [path.name + ("/" if path.is_dir() else "") for path in listing(folder)]
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return UserError(f"{what}; expected {self.expected}; found {found or 'nothing'}.")

    def table(self, folder: Path, *patterns: str) -> Path:
        """The first file that matches."""
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and not path.name.startswith("."):
                    return path
        raise self.refusal(folder, f"no {patterns[0]} in {folder}")

    def _is_here(self, folder: Path) -> bool:
        return any(True for marker in self.markers for _ in folder.glob(marker))


def listing(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; hidden files are left to their owners."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot look into {folder}: {error.strerror}; mend its permissions.") from error


def relative_path(path: Path, root: str) -> str:
    """A path below `root` as the datalist writes it."""
    return path.relative_to(Path(str(root)).expanduser()).as_posix()


def read_text(path: Path) -> str:
    """A UTF-8 text, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; copy the original file again.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions.") from error


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with at least these columns; blanks round names and values are dropped."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table ({error}); copy the original file again.") from error
    header = [name.strip() for name in lines[0]] if lines else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise UserError(f"{path} has no column {', '.join(absent)} but {', '.join(header)}; copy the original file.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(value.strip() for value in line):
            continue
        row = {name: value.strip() for name, value in zip(header, line, strict=False)}
        if any(name not in row for name in columns):
            raise UserError(f"{path}, line {number}: the row is cut short; copy the original file again.")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} has no rows; copy the original file again.")
    return rows


def read_names(path: Path) -> list[str]:
    """A list of files, one a line, by name alone."""
    return [
        PurePosixPath(line.strip().replace("\\", "/")).name for line in read_text(path).splitlines() if line.strip()
    ]


def first_few(names: Iterable[str], few: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:few]) + (", ..." if len(every) > few else "")
