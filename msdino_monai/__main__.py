"""`python -m msdino_monai <verb>`: everything that is not a bundle run."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire

from msdino_monai.errors import UserError
from msdino_monai.flags import as_flag, check_flags

# Each verb is imported only when it is called, so that `--help` answers at once.
VERBS = {
    "cohort": ("msdino_monai.images.cohort", "write_cohort", "write a synthetic multi-hospital chest X-ray cohort"),
    "confirm": ("msdino_monai.vault.receive", "confirm", "check the coordinator's receipt, at the hospital"),
    "datalist": ("msdino_monai.finetuning.datalists", "DATALISTS", "make a MONAI datalist of a public data set"),
    "federate": ("msdino_monai.federated.federate", "federate", "train a bundle over sites that keep their images"),
    "keygen": ("msdino_monai.vault.keygen", "keygen", "make key pairs for a coordinator or a site"),
    "pack": ("msdino_monai.sharing.pack", "pack", "make a signed package of a bundle that runs elsewhere"),
    "receive": ("msdino_monai.vault.receive", "receive", "check an export whole and write a receipt"),
    "report": ("msdino_monai.reporting.report", "report", "make one page of everything found in a folder of runs"),
    "survey": (
        "msdino_monai.images.survey",
        "survey",
        "read a folder of radiographs: what is usable, what is not, why",
    ),
    "verify": ("msdino_monai.sharing.verify", "verify", "check bundles and packages as the model zoo does"),
    "volumes": ("msdino_monai.images.abdomen", "write_volumes", "write synthetic multi-hospital abdominal CT volumes"),
    "withdraw": ("msdino_monai.exporting.withdraw", "withdraw", "take a patient out of an export"),
}


def overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, (_, _, summary) in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m msdino_monai <verb> [--flag value ...]",
            "",
            *lines,
            "",
            "python -m msdino_monai <verb> --help explains one. Research software, not a medical device.",
        ]
    )


def explain(verb: str, function: Callable[..., Any]) -> str:
    """The help of one verb: its docstring and its flags with their defaults."""
    flags, usage = [], f"usage: python -m msdino_monai {verb}"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            usage += f" <{parameter.name}> ..."
            continue
        required = parameter.default is parameter.empty
        flags.append(f"  --{parameter.name:<22} {'required' if required else f'default: {parameter.default}'}")
    return "\n".join([f"{usage} [--flag value ...]", "", inspect.getdoc(function) or "", "", *flags])


def choices(verb: str, functions: Mapping[str, Callable[..., Any]]) -> str:
    """The help of a verb that does its work for several things: the first line on each."""
    width = max(map(len, functions))
    lines = [
        f"  {name:<{width}}  {(inspect.getdoc(each) or '').partition(chr(10))[0]}" for name, each in functions.items()
    ]
    usage = f"usage: python -m msdino_monai {verb} <name> [--flag value ...]"
    return "\n".join([usage, "", *lines, "", f"python -m msdino_monai {verb} <name> --help explains one."])


def check_arguments(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuse flags the function does not have and flags it cannot do without."""
    parameters = inspect.signature(function).parameters.values()
    flags = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    if len(flags) < len(parameters):  # what the verb works on comes first, without a flag
        arguments = list(itertools.dropwhile(lambda argument: not argument.startswith("-"), arguments))
    given = check_flags(arguments, [p.name for p in flags])
    missing = [p.name for p in flags if p.default is p.empty and p.name not in given]
    if missing:
        raise UserError(f"missing {', '.join(f'--{name}' for name in missing)}.")


def _as_typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep text as it was typed: fire would turn a patient `007` into 7, `1e5` into 100000.0, and `false` into text."""
    readers = {"str": str, "str | None": str, "bool": as_flag}
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        function = fire.decorators.SetParseFn(str)(function)
    typed = {p.name: readers[str(p.annotation)] for p in parameters if str(p.annotation) in readers}

    @functools.wraps(function)
    def call(*arguments: Any, **flags: Any) -> Any:
        return function(*arguments, **flags)

    return fire.decorators.SetParseFns(**typed)(call)  # type: ignore[no-any-return]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed, 2 wrong use, 3 done but some files quarantined."""
    verb, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if verb in ("", "-h", "--help", "help"):
        print(overview())
        return 0
    if verb not in VERBS:
        print(f"msdino_monai: unknown verb {verb!r}; it is one of: {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    module, name, _ = VERBS[verb]
    function = getattr(importlib.import_module(module), name)
    if isinstance(function, Mapping):
        functions, (choice, *arguments) = function, arguments or [""]
        if choice in ("", "-h", "--help", "help"):
            print(choices(verb, functions))
            return 0
        if choice not in functions:
            print(f"msdino_monai {verb}: unknown {choice!r}; it is one of: {', '.join(functions)}.", file=sys.stderr)
            return 2
        verb, function = f"{verb} {choice}", functions[choice]
    if {"-h", "--help"} & set(arguments):
        print(explain(verb, function))
        return 0
    try:
        check_arguments(function, arguments)
    except UserError as error:
        print(f"msdino_monai {verb}: {error}", file=sys.stderr)
        return 2
    try:
        status = fire.Fire(
            _as_typed(function), command=list(arguments), name=f"msdino_monai {verb}", serialize=lambda _: None
        )
    except (UserError, OSError) as error:
        print(f"msdino_monai {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"msdino_monai {verb}: interrupted.", file=sys.stderr)
        return 130
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main())
