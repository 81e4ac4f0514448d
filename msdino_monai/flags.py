"""Command-line flags, checked before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from msdino_monai.errors import UserError

_FLAG = re.compile(r"--?([A-Za-z_][\w-]*(?:(?:#|::)[^=]*)?)(?:=(.*))?", re.DOTALL)


def split_flags(argv: Iterable[str]) -> list[tuple[str, str | None]]:
    """`--flag value` and `--flag=value` as pairs, dashes in names read as underscores; anything else is refused."""
    pairs: list[tuple[str, str | None]] = []
    for argument in argv:
        match = _FLAG.fullmatch(argument)
        if match:
            pairs.append((match[1].replace("-", "_"), match[2]))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], argument)
        else:
            raise UserError(f"unexpected {argument!r}; settings are given as --flag value.")
    return pairs


def check_flags(argv: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """The flags and their values as typed; refuses unknown, repeated and empty ones.

    fire and MONAI would silently ignore or overwrite them. MONAI's `--train#trainer#max_epochs` is known where `train`
    is.
    """
    given: dict[str, str] = {}
    for name, value in split_flags(argv):
        top = re.split("#|::", name)[0]
        if top not in known:
            close = difflib.get_close_matches(top, known, n=1)
            few = (
                f"known are: {', '.join(f'--{k}' for k in known)}."
                if len(known) <= 12
                else "see the table of settings."
            )
            raise UserError(f"unknown flag --{name}; " + (f"did you mean --{close[0]}?" if close else few))
        if name in given:
            raise UserError(f"--{name} is given twice; give it once (several values: --{name} a,b).")
        if value is None:
            raise UserError(f"--{name} needs a value.")
        given[name] = value
    return given


def as_flag(value: object) -> bool:
    """`true` and `false` as people type them; fire and MONAI pass `false` on as a text, which is true to Python."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UserError(f"{value!r} is neither true nor false; write --name true or --name false.")
