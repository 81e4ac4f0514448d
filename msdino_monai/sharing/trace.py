"""Paths of the machine a package was made on, or of another's home, which have no place in it."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

from msdino_monai.errors import UserError

_ARCHIVES = (".ts", ".pt", ".whl")
_WORD = rb"[\w.@+\x80-\xff-]+"  # of a name, in any script
# Of somebody, wherever that was; Windows and macOS have names of several words.
_HOMES = rb"(?:/home|/Users|(?i:[a-z]:\\{1,4}users))[/\\]{1,4}%s(?: %s){0,3}(?=[/\\])" % (_WORD, _WORD)


def refuse_own_paths(folder: Path, own: list[Path]) -> None:
    """Refuse files that hold the path of one of `own`, of a home folder, or of this Python."""
    known = {place.resolve() for place in [*own, Path.cwd(), Path(sys.prefix)]}
    # `/usr/` or `/tmp/` may stand in any text; a longer path is of this machine.
    places = [place for place in {*filter(_is_long, known), Path.home()} if place != place.parent]
    named = b"|".join(re.escape(str(place)).encode() for place in places)
    needle = re.compile(rb"(?<![\w.-])((?:%s)(?![\w.-])|%s)" % (named, _HOMES))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for name, data in _contents(path):
            if found := needle.search(data):
                where = path.relative_to(folder).as_posix() + name
                shown = found[1].decode(errors="replace")
                raise UserError(f"{where} holds the path {shown}; take it out before you share it.")


def _is_long(place: Path) -> bool:
    return len(place.parts) > 2  # the root is one of them


def _contents(path: Path) -> list[tuple[str, bytes]]:
    """A file's bytes; of an archive those of its members, which may be compressed."""
    data = path.read_bytes()
    if path.suffix not in _ARCHIVES or not zipfile.is_zipfile(io.BytesIO(data)):
        return [("", data)]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(f" ({info.filename})", archive.read(info)) for info in archive.infolist()]
