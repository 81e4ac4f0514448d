"""Command-line flags, checked before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from msdino_monai.errors import UserError

_FLAG = re.compile(r"--?([A-Za-z_][\w-]*(?:(?:#|::)[^=]*)?)(?:=.*)?", re.DOTALL)


def flag_names(argv: Iterable[str]) -> list[str]:
    """The names of all `--flag value` and `--flag=value` in `argv`, dashes read as underscores."""
    matches = (_FLAG.fullmatch(argument) for argument in argv)
    return [match[1].replace("-", "_") for match in matches if match]


def check_flags(argv: Iterable[str], known: Sequence[str]) -> None:
    """Refuse unknown and repeated flags, which fire and MONAI would silently ignore or overwrite.

    MONAI's `--train#trainer#max_epochs` is known where `train` is.
    """
    seen = set()
    for name in flag_names(argv):
        top = re.split("#|::", name)[0]
        if top not in known:
            close = difflib.get_close_matches(top, known, n=1)
            few = (
                f"known are: {', '.join(f'--{k}' for k in known)}."
                if len(known) <= 12
                else "see the table of settings."
            )
            raise UserError(f"unknown flag --{name}; " + (f"did you mean --{close[0]}?" if close else few))
        if name in seen:
            raise UserError(f"--{name} is given twice; give it once (several values: --{name} a,b).")
        seen.add(name)


def as_flag(value: object) -> bool:
    """`true` and `false` as people type them; fire and MONAI pass `false` on as a text, which is true to Python."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UserError(f"{value!r} is neither true nor false; write --name true or --name false.")
