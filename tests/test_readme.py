"""What the README says to type exists, and its links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from msdino_monai.__main__ import VERBS, check_arguments
from msdino_monai.settings import known_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def commands() -> list[list[str]]:
    """The indented lines that call Python, a line that ends in a backslash joined to the next."""
    lines = re.sub(r"\\\n", " ", README).splitlines()
    return [shlex.split(line) for line in lines if re.match(r" {4,}python -m ", line)]


def test_every_command_names_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands()
    assert len(found) >= 10
    for command in found:
        words = [word.removeprefix("demo/") for word in command]  # the demo's bundles are copies
        if command[2] == "monai.bundle":
            given = {word[2:] for word in words[4:] if word.startswith("--")}
            assert given - {"config_file", "bundle_root"} <= set(known_settings(words[4:])), shlex.join(command)
        else:
            module, name, _ = VERBS[command[3]]
            check_arguments(getattr(importlib.import_module(module), name), command[4:])


def test_every_bundle_has_a_command() -> None:
    typed = " ".join(word for command in commands() for word in command)
    for bundle in (ROOT / "bundles").glob("*/configs"):
        assert f"bundles/{bundle.parent.name}/" in typed.replace(" ", "/")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], link
