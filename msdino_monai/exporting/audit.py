"""No export without an audit that passed: which settings an audit speaks of, and whether it speaks of these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.vault import ExportDescription
from msdino_monai.vault.manifest import canonical

_RUN_IT = "run configs/privacy_audit.json with the settings of this export, then give --audit <its audit.json>"


def audited_settings(description: ExportDescription) -> dict[str, Any]:
    """All that decides what an attacker makes of an export: embedder, sizes, defences, augmentation; not the site."""
    settings = description.settings()
    del settings["site_id"]
    return settings


def hash_settings(settings: Mapping[str, Any]) -> str:
    """One name for settings, whatever the order they are written in."""
    return hashlib.sha256(canonical(settings)).hexdigest()


def check_audit(audit: str | Path | None, required: bool, description: ExportDescription) -> None:
    """Refuse to export unless an audit of exactly these settings passed; one that is given is always checked.

    It guards against mistakes, not against people: a hospital can write any file it likes.
    """
    if audit is None:
        if required:
            raise UserError(f"require_audit is true and no audit is given; {_RUN_IT}.")
        return
    page = _read(Path(str(audit)).expanduser())
    differing = sorted(different_names(page["export"], audited_settings(description)))
    if differing:
        raise UserError(f"the audit {audit} is of other settings ({', '.join(differing)}); {_RUN_IT}.")
    if page["verdict"]["result"] != "pass":
        raise UserError(f"the audit {audit} did not pass; choose stronger defences, and {_RUN_IT}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
        if hash_settings(page["export"]) != page["export_sha256"] or page["verdict"]["result"] not in ("pass", "fail"):
            raise ValueError("altered")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no audit.json that can be used ({type(error).__name__}); {_RUN_IT}.") from error
    return dict(page)


def different_names(one: Mapping[str, Any], two: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The names of the settings in which two descriptions differ, nested ones with a dot."""
    found = []
    for name in {*one, *two}:
        first, second = one.get(name), two.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += different_names(first, second, f"{prefix}{name}.")
        elif first != second:
            found.append(f"{prefix}{name}")
    return found
