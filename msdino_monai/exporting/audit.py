"""No export without an audit that passed: which settings an audit speaks of, and whether it speaks of these."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.vault import ExportDescription
from msdino_monai.vault.manifest import canonical

_log = logging.getLogger("msdino_monai.export")

ATTACKERS = 2  # counts up when they become stronger; older audits say too little then

_ASKED = {"max_order_leaks", "max_neighbour_accuracy"}  # without these an audit says nothing
_RUN_IT = "run configs/privacy_audit.json with the settings of this export, then give --audit <its audit.json>"


def audited_settings(description: ExportDescription) -> dict[str, Any]:
    """All that decides what an attacker makes of an export: embedder, sizes, defences, augmentation; not the site."""
    settings = description.settings()
    del settings["site_id"]
    return settings


def hash_settings(settings: Mapping[str, Any]) -> str:
    """One name for settings, whatever the order they are written in."""
    return hashlib.sha256(canonical(settings)).hexdigest()


@dataclass(frozen=True)
class Audit:
    """What an `audit.json` says: of which settings, by which version, how it ended, and what was asked."""

    settings: dict[str, Any]
    version: str
    attackers: int
    weaker: tuple[str, ...]  # settings under which it attacked with less than usual
    passed: bool
    checks: dict[str, tuple[float, float]]  # what was reached, and the limit


def check_audit(audit: str | Path | None, required: bool, description: ExportDescription) -> None:
    """Refuse to export unless an audit of these settings, by this version, passed; one that is given is always checked.

    It guards against mistakes, not against people: a hospital can write any file it likes.
    """
    if audit is None:
        if required:
            raise UserError(f"require_audit is true and no audit is given; {_RUN_IT}.")
        return
    found = _read(Path(str(audit)).expanduser())
    differing = sorted(different_names(found.settings, audited_settings(description)))
    if differing:
        raise UserError(f"the audit {audit} is of other settings ({', '.join(differing)}); {_RUN_IT}.")
    if not found.passed:
        raise UserError(f"the audit {audit} did not pass; choose stronger defences, and {_RUN_IT}.")
    if missing := sorted(_ASKED - found.checks.keys()):
        raise UserError(f"the audit {audit} did not ask for {', '.join(missing)}; set a threshold, and {_RUN_IT}.")
    if found.version != __version__:
        raise UserError(f"the audit {audit} is by version {found.version}, this is {__version__}; {_RUN_IT}.")
    if found.attackers != ATTACKERS:
        raise UserError(
            f"the audit {audit} is by attackers {found.attackers}, those of now are {ATTACKERS}; {_RUN_IT}."
        )
    if found.weaker:
        _log.warning("The audit %s attacked with less than usual (%s): it says less.", audit, ", ".join(found.weaker))
    said = ", ".join(f"{name} {reached:.3f} of {limit:g}" for name, (reached, limit) in found.checks.items())
    _log.info("The audit %s passed: %s.", audit, said)


def _read(path: Path) -> Audit:
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
        checks = {
            str(check["threshold"]): (float(check["figure"]), float(check["limit"]))
            for check in page["verdict"]["checks"]
        }
        result = page["verdict"]["result"]
        # A verdict somebody changed by hand no longer follows from its figures (which are rounded).
        if result not in ("pass", "fail") or (
            result == "pass" and any(reached > limit + 1e-6 for reached, limit in checks.values())
        ):
            raise ValueError("altered")
        if hash_settings(page["export"]) != page["export_sha256"]:
            raise ValueError("altered")
        return Audit(
            settings=dict(page["export"]),
            version=str(page["versions"]["msdino_monai"]),
            attackers=int(page.get("attackers", 1)),
            weaker=tuple(map(str, page.get("weaker_than_usual", ()))),
            passed=result == "pass",
            checks=checks,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no audit.json that can be used ({type(error).__name__}); {_RUN_IT}.") from error


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
