"""An export that requires an audit: which `audit.json` it takes, and which it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.exporting.audit import ATTACKERS, audited_settings, check_audit, hash_settings
from msdino_monai.vault import ExportDescription


@pytest.fixture
def description() -> ExportDescription:
    return ExportDescription("a", {"sha256": "0" * 64, "margin": 4}, 16, 8, 16, 1, "float16", {"noise": 0.0}, {})


@pytest.fixture
def audit(tmp_path: Path, description: ExportDescription) -> Callable[..., Path]:
    """An audit that passed, with what is changed."""

    def write(**change: Any) -> Path:
        settings = audited_settings(description)
        asked = {"max_order_leaks": (0.0, 0.0), "max_neighbour_accuracy": (0.12, 0.2), **change.pop("checks", {})}
        checks = [
            {"threshold": name, "figure": pair[0], "limit": pair[1], "met": True}
            for name, pair in asked.items()
            if pair
        ]
        page = {
            "verdict": {"result": "pass", "checks": checks},
            "export": settings,
            "export_sha256": hash_settings(settings),
            "versions": {"msdino_monai": __version__},
            "attackers": ATTACKERS,
            "weaker_than_usual": [],
        }
        path = tmp_path / "audit.json"
        path.write_text(json.dumps({**page, **change}))
        return path

    return write


def test_audit_that_passed_is_taken(audit: Callable[..., Path], description: ExportDescription) -> None:
    check_audit(audit(), True, description)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checks": {"max_neighbour_accuracy": (0.9, 0.2)}}, "no audit.json that can be used"),
        ({"checks": {"max_neighbour_accuracy": None}}, "did not ask for max_neighbour_accuracy"),
        ({"versions": {"msdino_monai": "0.0.1"}}, "is by version 0.0.1"),
        ({"attackers": ATTACKERS - 1}, f"is by attackers {ATTACKERS - 1}"),
        ({"export": {"dtype": "int8"}}, "no audit.json that can be used"),
        ({"verdict": "pass"}, "no audit.json that can be used"),
    ],
    ids=["edited verdict", "nothing asked", "older version", "weaker attackers", "edited settings", "no verdict"],
)
def test_audit_that_says_too_little_is_refused(
    audit: Callable[..., Path], description: ExportDescription, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_audit(audit(**change), True, description)
