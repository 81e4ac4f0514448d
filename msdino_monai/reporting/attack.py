"""Section: what an attacker recovers from an export, as the privacy audits found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from msdino_monai.reporting.page import Cell, Page
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.runs import Run, Runs, number, with_interval

_IMAGES = 2  # with all that was made of them
# What a manifest tells in clear and an audit states too.
_SETTINGS = ("embedder_sha256", "num_tokens", "kept_tokens", "embedding_dim", "num_views", "dtype")
_ADVICE = {"fail": " A hospital would stop here, and export nothing until settings are found that pass."}
# Other measures of the same success; the audit's own page has them all.
_DETAILS = ("psnr", "gmsd", "largest piece", "best neighbour before the solver", "mean average precision")


def add(page: Page, runs: Runs) -> None:
    page.section("What an attacker sees")
    if not runs.audits:
        page.missing(
            "No privacy audit was found, so nothing is claimed here of what an attacker recovers from these exports. "
            "Run configs/privacy_audit.json of the export bundle with the export's own settings."
        )
        return
    for audit in runs.audits:
        _verdict(page, audit)
        _settings(page, audit, runs)
        if runs.pictures:
            for place, image in enumerate(_few(audit), start=1):
                page.paragraph(f"Image {place} of {audit.name}, and what the attacks made of it:")
                captions = [(path, _caption(audit, path)) for path in image]
                page.pictures([Picture(path, f"{audit.name}: {said}", said) for path, said in captions], size=140)
        _rows(page, audit)
    page.paragraph(
        "An audit attacks with the strongest attacks this project has. It is no proof that none is stronger."
    )


def _verdict(page: Page, audit: Run) -> None:
    verdict = audit.content["verdict"]
    said: dict[str, Any] = verdict if isinstance(verdict, dict) else {"result": verdict}
    result = str(said.get("result", "")).lower()
    title = {
        "pass": "passed: every threshold is kept",
        "fail": "failed: with these settings an attacker gets more than the thresholds allow",
    }.get(result, f"says {result or 'nothing'}")
    kinds: dict[str, Literal["pass", "fail"]] = {"pass": "pass", "fail": "fail"}
    page.verdict(
        kinds.get(result, "note"), f"The {audit.name} {title}", f"Audited on {_images(audit)}.{_ADVICE.get(result, '')}"
    )
    checks = [each for each in _items(said.get("checks")) if isinstance(each, dict)]
    rows: list[list[Cell]] = [
        [
            _words(str(each.get("threshold", ""))),
            number(each.get("figure")),
            number(each.get("limit")),
            "kept" if each.get("met") else "EXCEEDED",
            str(each.get("attack", "")),
        ]
        for each in checks
    ]
    if rows:
        page.table(
            ["threshold", "strongest attack", "limit", "", "attack"], rows, "The verdict, threshold by threshold."
        )


def _settings(page: Page, audit: Run, runs: Runs) -> None:
    """Whether the audit speaks of the exports found here, as far as their manifests say in clear."""
    export = audit.content.get("export")
    said: dict[str, Any] = dict(export) if isinstance(export, dict) else {}
    said["embedder_sha256"] = audit.content.get("embedder_sha256")
    speaking: dict[str, list[str]] = {}
    for found in runs.exports:
        differing = [
            f"{_words(name)} {said[name]} here, {found.content.get(name)} in the export"
            for name in _SETTINGS
            if said.get(name) is not None and said[name] != found.content.get(name)
        ]
        if differing:
            speaking.setdefault("; ".join(differing), []).append(found.name)
    for words, names in speaking.items():
        title = f"The {audit.name} is of other settings than {', '.join(names)}"
        page.verdict("note", title, f"It says nothing of them: {words}.")


def _images(audit: Run) -> str:
    said = audit.content.get("images")
    images: dict[str, Any] = said if isinstance(said, dict) else {}
    return (
        f"{images.get('exported', 'an unknown number of')} images, {images.get('reconstructed', 'some')} reconstructed"
    )


def _few(audit: Run) -> list[list[Path]]:
    """The pictures of the first images, image by image; the names of one image's pictures begin alike."""
    images: dict[str, list[Path]] = {}
    for path in sorted(path for path in audit.folder.rglob("*.png") if not path.is_symlink()):
        images.setdefault(path.name.partition("_")[0], []).append(path)
    return list(images.values())[:_IMAGES]


def _caption(audit: Run, path: Path) -> str:
    """As the audit names its pictures; else from the file's name: 01_0_exported, 01_2."""
    named = audit.content.get("pictures")
    if isinstance(named, dict) and path.name in named:
        return str(named[path.name])
    found = re.fullmatch(r"(\d+)_(\d+)(?:_(\w+))?", path.stem)
    if found is None:
        return _words(path.stem)
    return f"image {int(found[1])}: {_words(found[3]) if found[3] else f'attack {found[2]}'}"


def _rows(page: Page, audit: Run) -> None:
    rows: list[list[Cell]] = []
    for row in _items(audit.content.get("rows")):
        if not isinstance(row, dict) or "figure" not in row or row.get("metric") in _DETAILS:
            continue
        words = [str(row.get(name, "")) for name in ("attack", "metric")]
        chance, worst = (number(row.get(name)) for name in ("chance", "worst"))
        figure = with_interval({"value": row["figure"], "interval": row.get("interval")})
        rows.append([*words, figure, chance, worst, row.get("n"), _knows(row)])
    if rows:
        header = ["attack", "measured", "figure", "guessing gives", "worst image", "n", "attacker has"]
        said = (
            "the figures with 95 % intervals over images. ssim is likeness to the image, 1 is the image itself; "
            "neighbours and places are the share of patches put right; top-1 is the share of images or patients found "
            "at the first try. The audit's own page has further measures."
        )
        page.table(header, rows, f"{audit.name}: {said}")


def _knows(row: dict[str, Any]) -> str:
    known = row.get("knows")
    names = [name for name, has in known.items() if has and name != "embedder"] if isinstance(known, dict) else []
    return ", ".join(map(_words, names)) or "the export alone"


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _words(name: str) -> str:
    return name.replace("_", " ")
