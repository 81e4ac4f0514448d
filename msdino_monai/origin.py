"""Where a wrong setting was given: on the command line, in its `args_file`, or in a config file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from msdino_monai.errors import UserError
from msdino_monai.flags import split_flags

_MOST_NAMED = 3
# What MONAI says around an error of ours: the settings that went into the expression or the component.
_REFERENCE = re.compile(r"__local_refs\['(\w+)")
_KEYWORDS = re.compile(r"^Failed to instantiate component .* with keywords: ([\w,]+)", re.MULTILINE)


def config_files(flags: Sequence[str]) -> list[str]:
    """The config files of a command line or its `args_file`, in the order in which they are laid over each other."""
    files = _given(flags).get("config_file", "")
    if not isinstance(files, str):
        return [str(file) for file in files]
    return [part.strip(" '\"") for part in files.strip("[]()").split(",") if part.strip(" '\"")]


def origin(message: str, error: BaseException, flags: Sequence[str]) -> str:
    """The settings that a message is about, each with its value and the place it comes from; empty where none is."""
    try:
        sources = list(_sources(flags))
    except (UserError, OSError, ValueError):  # the message is about these very flags or files
        return ""
    found: dict[str, str] = {}
    problem, _, advice = message.partition(";")
    for name in dict.fromkeys([*_named(problem), *re.findall(r"--(\w+)", advice), *_involved(error)]):
        place, value = next(((place, given[name]) for place, given in sources if name in given), ("", None))
        if _is_setting(value) and (name in _named(problem) or _is_said(value, problem)):
            found[name] = f"{name} = {value if isinstance(value, str) else json.dumps(value)} {place}"
    return "; ".join(list(found.values())[:_MOST_NAMED])


def _given(flags: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = dict(split_flags(flags))
    file = given.get("args_file")
    return {**ConfigParser.load_config_file(file), **given} if file else given


def _sources(flags: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What counts most comes first."""
    typed = dict(split_flags(flags))
    yield "on the command line", typed
    if typed.get("args_file"):
        yield f"in {typed['args_file']}", ConfigParser.load_config_file(typed["args_file"])
    for file in reversed(config_files(flags)):
        content = ConfigParser.load_config_file(file)
        yield f"in {file}", {str(name).lstrip("+"): value for name, value in content.items()}


def _named(problem: str) -> list[str]:
    """`--name`, and bare words that can hardly be anything but a setting: constructors know nothing of flags."""
    return re.findall(r"--(\w+)", problem) + re.findall(r"^\w+|\b[a-z]+_\w+", problem)


def _involved(error: BaseException) -> Iterator[str]:
    cause: BaseException | None = error
    while cause is not None:
        yield from _REFERENCE.findall(str(cause))
        for keywords in _KEYWORDS.findall(str(cause)):
            yield from keywords.split(",")
        cause = cause.__cause__ or cause.__context__


def _is_setting(value: Any) -> bool:
    """Whether it is a value that people give, and no part of the workflow, such as `run`."""
    parts = value if isinstance(value, list) else [value]
    code = "$" if isinstance(value, list) else "$@"
    return all(isinstance(each, (str, int, float)) and not str(each).startswith(code) for each in parts)


def _is_said(value: Any, problem: str) -> bool:
    """Whether a message quotes a value; a bare number may mean anything unless the message got it."""
    if isinstance(value, str) and not re.fullmatch(r"[\d.-]*", value):
        return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", problem) is not None
    return re.search(rf"got [(\[]?{re.escape(str(value))}(?!\w|\.\w)", problem) is not None
