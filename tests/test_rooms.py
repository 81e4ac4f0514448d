"""The package's rooms: which may know which. DESIGN in one table; an arrow more is a decision, not an accident."""

from __future__ import annotations

import ast
from pathlib import Path

import msdino_monai

PACKAGE = Path(msdino_monai.__file__).parent
GROUND = {"images", "networks", "vault"}
MAY_KNOW = {
    "images": set(),
    "networks": set(),
    "vault": set(),
    "exporting": GROUND,
    "pretraining": GROUND,
    "finetuning": GROUND,
    "federated": GROUND,
    "privacy": GROUND | {"exporting", "reporting"},  # it attacks what the export writes, and shows it on a page
    "reporting": {"images"},
    "sharing": GROUND | {"finetuning"},  # it saves and loads networks as the fine-tuning does
}


def known_rooms(file: Path) -> set[str]:
    """The rooms that a module imports from, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "msdino_monai" and len(part) > 1 and part[1] in MAY_KNOW}


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_KNOW)


def test_rooms_know_only_those_below_them() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports from {room}"
        for name, allowed in MAY_KNOW.items()
        for file in sorted((PACKAGE / name).rglob("*.py"))
        for room in known_rooms(file) - allowed - {name}
    ]
    assert not wrong, "\n".join(wrong)
