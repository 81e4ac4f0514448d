"""The pages that a bundle's documents link to: in a package they lie beside them, and no link leads nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msdino_monai.sharing.bundle import Bundle

_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#", re.IGNORECASE)


def bring_pages(bundle: Bundle, work: Bundle) -> None:
    """Copy the linked pages of the repository's `docs` into the copy's `docs`; what is not there is named in words.

    Pages that those link to come too. Nothing but Markdown from that one folder is taken.
    """
    pages = bundle.root.parent.parent / "docs"
    waiting = [bundle.root / "docs" / path.name for path in sorted((work.root / "docs").glob("*.md"))]
    written: set[str] = set()
    while waiting:
        page = waiting.pop()
        if page.name not in written:
            text, linked = _relinked(page, bundle, work, pages)
            (work.root / "docs" / page.name).write_text(text, encoding="utf-8")
            written.add(page.name)
            waiting += linked


def dead_links(root: Path) -> Iterator[str]:
    """`file: link` for every relative link of a bundle's documents that leads to no file in it."""
    for page in sorted((root / "docs").glob("*.md")):
        for _, _, link in _LINK.findall(page.read_text(encoding="utf-8")):
            target = page.parent / link.partition("#")[0]
            if not _ELSEWHERE.match(link) and not (
                target.is_file() and target.resolve().is_relative_to(root.resolve())
            ):
                yield f"docs/{page.name}: {link}"


def _relinked(page: Path, bundle: Bundle, work: Bundle, pages: Path) -> tuple[str, list[Path]]:
    """The page's text as it stands in the copy, and the pages it needs beside it."""
    own = {path.name for path in (bundle.root / "docs").iterdir()} | {"model_card.md"}
    linked: list[Path] = []

    def relink(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        if _ELSEWHERE.match(link):
            return match[0]
        name, hash_mark, anchor = link.partition("#")
        target = (page.parent / name).resolve()
        if target.is_relative_to(bundle.root):
            inside = target.relative_to(bundle.root)
            if (work.root / inside).is_file():
                return f"{mark}[{text}]({Path(os.path.relpath(inside, 'docs')).as_posix()}{hash_mark}{anchor})"
        if target.parent == pages and target.suffix == ".md" and target.is_file() and target.name not in own:
            linked.append(target)
            return f"{mark}[{text}]({target.name}{hash_mark}{anchor})"
        return _in_words(text, name)

    return _LINK.sub(relink, page.read_text(encoding="utf-8")), linked


def _in_words(text: str, name: str) -> str:
    """Where the page or picture lies in the repository."""
    place = "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/"))
    return text if place in text else f"{text} (`{place}` in the repository)"
