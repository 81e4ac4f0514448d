"""One self-contained HTML file: styles, pictures and drawings are inside it, scripts and addresses are not."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Literal

from msdino_monai.errors import UserError
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.style import STYLE

Cell = str | int | float | None
_NUMBER = re.compile(r"[-\u2212+\u2264\u2265<>~]?\s?\d")
_FORBIDDEN = re.compile(
    r"<\s*(script|foreignobject|iframe|image|use|a|style)\b|\bhref\s*=|\son\w+\s*=|url\((?!#)|@import", re.IGNORECASE
)
# The browser itself then refuses scripts and every address but data inside the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """Collects a title, a lead and sections; all text is escaped, so plain text goes in as it is."""

    def __init__(self, title: str, lead: str = "", badges: Sequence[str] = (), footer: str = "") -> None:
        self.title, self.lead, self.badges, self.footer = title, lead, tuple(badges), footer
        self._names: list[str] = []
        self._parts: list[list[str]] = [[]]

    def section(self, title: str) -> None:
        """Begin a section; it gets a place in the table of contents."""
        self._names.append(title)
        self._parts.append([])

    def heading(self, text: str) -> None:
        self._add(f"<h3>{escape(text)}</h3>")

    def paragraph(self, text: str) -> None:
        self._add(f"<p>{escape(text)}</p>")

    def missing(self, text: str) -> None:
        """Say in one sentence what this page could not show, and why."""
        self._add(f'<p class="missing">{escape(text)}</p>')

    def facts(self, rows: Iterable[tuple[str, Cell] | tuple[str, Cell, str]]) -> None:
        """Key figures: a name, a value and, if need be, a remark."""
        shown = []
        for name, value, *remark in rows:
            small = f"<small>{escape(remark[0])}</small>" if remark and remark[0] else ""
            kind = ' class="words"' if isinstance(value, str) and len(value) > 9 else ""
            words = _text(value).replace("_", "_<wbr>") if kind else _text(value)
            shown.append(f"<div><dt>{escape(name)}</dt><dd{kind}>{words}{small}</dd></div>")
        if shown:
            self._add(f'<dl class="facts">{"".join(shown)}</dl>')

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> None:
        """A table; columns of numbers are aligned right, and what is wider than the screen scrolls in its own box."""
        cells = [list(row) for row in rows]
        if any(len(row) != len(header) for row in cells):
            raise ValueError(f"every row needs {len(header)} cells, one per column of {list(header)}.")
        kinds = [' class="number"' if _numeric(row[place] for row in cells) else "" for place in range(len(header))]
        title = f'<p class="caption">{escape(caption)}</p>' if caption else ""  # it must not scroll with the table
        head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
        body = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in cells)
        label = escape(caption or "table")
        self._add(
            f'<div class="box">{title}<div class="wide" role="region" tabindex="0" aria-label="{label}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
        )

    def pictures(self, pictures: Iterable[Picture], size: int = 220, columns: int = 0) -> None:
        """A grid of pictures, each at least `size` pixels wide where the screen allows, or in so many `columns`."""
        shown = "".join(each.html() for each in pictures)
        if not shown:
            return
        if columns:
            self._add(f'<div class="pictures fixed" style="--columns:{int(columns)}">{shown}</div>')
        else:
            share = 100 if size > 240 else 46  # of a phone's width: small pictures stand in pairs
            self._add(f'<div class="pictures" style="--size:{int(size)}px;--share:{share}%">{shown}</div>')

    def charts(self, drawings: Iterable[tuple[str, str]]) -> None:
        """Charts side by side: each an SVG and its caption."""
        shown = "".join(_drawing(svg, caption) for svg, caption in drawings)
        if shown:
            self._add(f'<div class="charts">{shown}</div>')

    def drawing(self, svg: str, caption: str = "", tall: str = "") -> None:
        """An SVG over the whole width; narrow screens get `tall` in its place, if there is one."""
        if not tall:
            self._add(f'<div class="full">{_drawing(svg, caption)}</div>')
            return
        note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        both = f'<div class="long">{_checked(svg)}</div><div class="tall">{_checked(tall)}</div>'
        self._add(f'<div class="full"><figure class="drawing">{both}{note}</figure></div>')

    def verdict(self, kind: Literal["pass", "fail", "note"], title: str, text: str = "") -> None:
        more = f"<p>{escape(text)}</p>" if text else ""
        if kind not in ("pass", "fail", "note"):
            raise ValueError(f"a verdict is pass, fail or note, got {kind!r}.")
        self._add(f'<div class="verdict {kind}" role="note"><strong>{escape(title)}</strong>{more}</div>')

    def commands(self, lines: Iterable[str]) -> None:
        """Commands as they are typed."""
        self._add(f"<pre><code>{escape(chr(10).join(lines))}</code></pre>")

    def html(self) -> str:
        badges = "".join(f"<li>{escape(each)}</li>" for each in self.badges)
        contents = "".join(f'<li><a href="#part-{n}">{escape(name)}</a></li>' for n, name in enumerate(self._names, 1))
        sections = "".join(
            f'<section id="part-{n}"><h2>{escape(name)}</h2>{"".join(self._parts[n])}</section>\n'
            for n, name in enumerate(self._names, 1)
        )
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(self.title)}</title>",
                '<link rel="icon" href="data:,">',  # else a browser asks the server for one
                f"<style>\n{STYLE}</style>\n</head>\n<body>\n<header>",
                f"<h1>{escape(self.title)}</h1>",
                f'<p class="lead">{escape(self.lead)}</p>' if self.lead else "",
                f'<ul class="badges">{badges}</ul>' if badges else "",
                f"<nav><strong>Contents</strong><ol>{contents}</ol></nav>" if len(self._names) > 1 else "",
                f"</header>\n<main>\n{''.join(self._parts[0])}{sections}</main>",
                f"<footer>{escape(self.footer)}</footer>" if self.footer else "",
                "</body>\n</html>\n",
            ]
        )

    def save(self, path: str | Path) -> Path:
        """Write the page whole or not at all; returns its path."""
        path = Path(path).expanduser()
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(self.html().encode())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; check the path and the room on the disk."
            ) from error
        return path

    def _add(self, html: str) -> None:
        self._parts[-1].append(f"{html}\n")


def _text(value: Cell) -> str:
    """A value as people read it: thousands set apart, no more digits than they mean."""
    if value is None or value != value:  # NaN
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
    return escape(str(value))


def _numeric(cells: Iterable[Cell]) -> bool:
    shown = [cell for cell in cells if cell is not None and cell != ""]
    return bool(shown) and all(
        bool(_NUMBER.match(cell)) if isinstance(cell, str) else not isinstance(cell, bool) for cell in shown
    )


def _row(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    return "".join(
        _sentence(cell) if not kind and isinstance(cell, str) and len(cell) > 20 else f"<td{kind}>{_text(cell)}</td>"
        for cell, kind in zip(row, kinds, strict=True)
    )


def _sentence(text: str) -> str:
    """Long words keep some width however narrow the screen is, and paths may be broken."""
    return f'<td class="words">{escape(text).replace("_", "_<wbr>").replace("/", "/<wbr>")}</td>'


def _drawing(svg: str, caption: str) -> str:
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="drawing">{_checked(svg)}{note}</figure>'


def _checked(svg: str) -> str:
    """A drawing is the one thing that goes in unescaped: refuse what could run or load anything."""
    found = _FORBIDDEN.search(svg)
    if found or not svg.startswith("<svg") or not svg.endswith("</svg>"):
        shown = found[0] if found else svg[:40]
        raise ValueError(f"a drawing is one <svg> without scripts, styles or links, got {shown!r}.")
    return svg
