"""The files a run could not use, and those somebody should look at: one row each."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msdino_monai.errors import RadiographError, UserError

HEADER = ("file", "step", "reason", "what to do")


class Quarantine:
    """`quarantine.csv` and `flagged.csv` in one folder, safe to write from several processes.

    Both name files, so the folder belongs to the hospital and is never part of what leaves it.
    """

    def __init__(self, folder: str | Path) -> None:
        place = Path(folder).expanduser()
        self.quarantined, self.flagged = place / "quarantine.csv", place / "flagged.csv"

    def clear(self, keep_flags: bool = False) -> None:
        """Begin a run: refused files get another chance; `keep_flags` where used ones are not read again."""
        self.quarantined.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.quarantined,) if keep_flags else (self.quarantined, self.flagged):
            path.unlink(missing_ok=True)

    def reject(self, file: str, error: RadiographError) -> None:
        _append(self.quarantined, (file, error.step, error.reason, error.advice))

    def flag(self, file: str, reason: str) -> None:
        _append(self.flagged, (file, "look", reason, "it was used; look at it before anything leaves the hospital"))

    def rejected(self) -> list[dict[str, str]]:
        return list(_rows(self.quarantined))

    def reasons(self) -> dict[str, int]:
        """Why files were refused, and how many each time, the most common first."""
        return dict(Counter(f"{row['step']}: {row['reason']}" for row in self.rejected()).most_common())

    def suspicious(self) -> list[dict[str, str]]:
        """Each file once for each reason, however many runs have read it."""
        return list({(row["file"], row["reason"]): row for row in _rows(self.flagged)}.values())

    def summary(self) -> str:
        """One line for the end of a run; empty if every file was used without remark."""
        parts = []
        if rejected := len(self.rejected()):
            parts.append(f"{rejected} quarantined, see {self.quarantined}")
        if flagged := len(self.suspicious()):
            parts.append(f"{flagged} used but worth a look, see {self.flagged}")
        return "; ".join(parts)


def _append(path: Path, row: tuple[str, ...]) -> None:
    line = io.StringIO()
    writer = csv.writer(line)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # loader workers and ranks share the file
            if os.fstat(descriptor).st_size == 0:
                writer.writerow(HEADER)
            writer.writerow([" ".join(text.split()) if text.isprintable() else ascii(text) for text in row])
            os.write(descriptor, line.getvalue().encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        advice = "free space or mend the permissions, then run the same command again"
        raise UserError(f"cannot write {path}: {error.strerror}; {advice}.") from error


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
