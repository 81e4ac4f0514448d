"""Section: where a classifier looked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msdino_monai.reporting.page import Page
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.runs import Run, Runs, number

_MOST = 8


def add(page: Page, runs: Runs) -> None:
    page.section("Where the classifier looked")
    explained = [run for run in runs.predictions if _maps(run)]
    if not explained:
        page.missing(
            "No explanation maps were found; inference of the classification bundle writes them with --explain true."
        )
        return
    if not runs.pictures:
        page.missing("Pictures are left out of this page.")
        return
    page.paragraph(
        "Warm colours mark the patches that spoke for a finding (attention times its gradient, rolled out over the "
        "layers). A map tells where a network looked, not whether it was right."
    )
    for run in explained:
        page.pictures(
            [
                Picture(path, f"Relevance for {name} in {file}", f"{name.replace('_', ' ')}, probability {chance:.2f}")
                for name, chance, file, path in _maps(run)[:_MOST]
            ],
            size=200,
        )
        count = len(_maps(run))
        page.paragraph(f"{run.name}: {min(count, _MOST)} of {count} maps, findings in turn, the surest first.")


def _maps(run: Run) -> list[tuple[str, float, str, Path]]:
    """The maps whose files are there: of each finding the surest, then of each the second, and so on."""
    found: dict[str, list[tuple[str, float, str, Path]]] = {}
    entries: list[dict[str, Any]] = [each for each in run.content["predictions"] if isinstance(each, dict)]
    for entry in entries:
        for name, file in (entry.get("explanations") or {}).items():
            path = run.folder / file
            if path.is_file() and path.resolve().is_relative_to(run.folder.resolve()):
                chance = number((entry.get("probabilities") or {}).get(name))
                found.setdefault(name, []).append((name, chance, str(entry.get("file", "")), path))
    ranked = [sorted(maps, key=lambda each: -each[1]) for _, maps in sorted(found.items())]
    longest = max(map(len, ranked), default=0)
    return [maps[place] for place in range(longest) for maps in ranked if place < len(maps)]
