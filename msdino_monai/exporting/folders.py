"""Where an export lies, where the hospital keeps what belongs to it, and what a user may give for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.vault import parse_recipients
from msdino_monai.vault.state import refuse_overlap


def export_dir(output_dir: str | Path) -> str:
    """The export's folder, as an absolute path."""
    return str(Path(str(output_dir)).expanduser().resolve())


def state_dir_of(output_dir: str | Path, state_dir: str | Path | None = None) -> str:
    """Where the hospital keeps what it needs to continue: beside the export unless it says otherwise."""
    output = Path(export_dir(output_dir))
    state = Path(str(state_dir)).expanduser().resolve() if state_dir else output.with_name(f"{output.name}.state")
    refuse_overlap(state, output)
    return str(state)


def notes_dir(output_dir: str | Path, state_dir: str | Path | None, dry_run: bool) -> str:
    """Where quarantined files are named; a dry run does not touch the notes of the real one."""
    state = Path(state_dir_of(output_dir, state_dir))
    return str(state / "dry_run" if dry_run else state)


def own_folders(output_dir: str | Path, state_dir: str | Path | None) -> list[str]:
    """Folders that are not searched for radiographs, should they lie among them."""
    return [export_dir(output_dir), state_dir_of(output_dir, state_dir)]


def recipients_of(value: Any) -> tuple[str, ...]:
    """The public keys of a setting: none if it was not given, at least one if it was (an empty $KEY seals nothing)."""
    if value is None:
        return ()
    texts = value if isinstance(value, (list, tuple)) else [value]
    recipients = parse_recipients([str(text) for text in texts])
    if not recipients:
        raise UserError("a recipient is given but empty; give the age1... line, or leave the setting out.")
    return recipients
