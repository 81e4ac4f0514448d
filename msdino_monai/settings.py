"""What every bundle does with its settings, before it does anything else, and with its exit status, after."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.utils.misc import MONAIEnvVars

from msdino_monai.distributed import rank, under_torchrun
from msdino_monai.errors import UserError
from msdino_monai.flags import check_flags, split_flags
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.origin import config_files, origin

# What `monai.bundle run` itself takes.
_RUN_FLAGS = (
    *("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"),
    *("workflow_type", "workflow_name", "bundle_root"),
)

# The settings of all bundles that name a file or a folder.
_PATHS = {
    *("audit", "auxiliary_dir", "backbone", "bundle_root", "cache_dir", "checkpoint", "coordinator_key", "datalist"),
    *("dataset_dir", "embedder_checkpoint", "identity", "output_dir", "signing_key", "state_dir", "trusted_sites"),
    *("val_datalist", "val_dataset_dir"),
}


def is_command_line() -> bool:
    """True where `python -m monai.bundle` started this process, and not somebody's own program."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def _is_label_training() -> bool:
    """True in the process that MONAI Label starts for a training; its users see its last lines."""
    return Path(sys.argv[0]).parts[-4:] == ("monailabel", "interfaces", "utils", "app.py")


def check_settings(required: Mapping[str, Any]) -> None:
    """Refuse unknown and repeated flags, and required settings without a value; make errors one line.

    MONAI keeps the last of repeated flags, ignores unknown ones, and runs an empty `dataset_dir` to a happy end.
    """
    if is_command_line() or _is_label_training():
        sys.excepthook = one_line_excepthook
    if is_command_line():
        given = check_flags(sys.argv[2:], [*known_settings(sys.argv[2:]), *_RUN_FLAGS])
        _check_device(given.get("device", "cpu"))
        _check_paths(given)
    missing = [name for name, value in required.items() if value is None or str(value).strip() == ""]
    if missing:
        flags = ", ".join(f"--{name}" for name in missing)
        if is_command_line():
            raise UserError(f"missing {flags}.")
        keywords = ", ".join(f"{name}=..." for name in missing)
        raise UserError(
            f"missing {flags}; a program gives {keywords} to the workflow, or to MONAI's load as args_file."
        )


def _check_device(name: str) -> None:
    """torch says of a wrong device which ones it was built with, all of them; expressions are the bundle's own."""
    if name.startswith(("$", "@", "%")):
        return
    try:
        device = torch.device(int(name) if name.isdigit() else name)
    except RuntimeError:
        raise UserError(f"--device must be cpu, cuda or cuda:0 for example, got {name!r}.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"--device is {name}, but torch finds {count} GPUs here; leave it out, or give another.")


def _check_paths(given: Mapping[str, str]) -> None:
    """fire reads what looks like Python: `2024.10` is a number to it, `export#2` a name and a comment."""
    for name in _PATHS & given.keys():
        typed, read = given[name], DefaultParseValue(given[name])
        if read not in (typed, typed.strip("'\""), None) and not isinstance(read, (list, dict)):
            raise UserError(f"--{name} {typed} was read as {read}; write --{name} ./{typed}.")


def needed_from_people(**required: Any) -> dict[str, Any]:
    """What the command line must give; a program may need the network alone, or put the images into the configuration.

    Under torchrun nobody knows here who it was; then the reading of the images asks for what is missing. What is given
    must not be empty: it would name the current folder.
    """
    if is_command_line() and not under_torchrun():
        return required
    return {name: value for name, value in required.items() if value is not None}


def known_settings(flags: Sequence[str]) -> list[str]:
    """The top-level names of the config files on a command line, or in its `args_file`, and those of its tracking."""
    given = {name: value for name, value in split_flags(flags) if value is not None}
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    paths = config_files(flags)
    names = [name for path in paths for name in ConfigParser.load_config_file(path) if not name.startswith("_")]
    tracking = str(given.get("tracking", ""))
    return names + (list(ConfigParser.load_config_file(tracking)["configs"]) if tracking.endswith(".json") else [])


def text_setting(name: str, value: Any) -> str:
    """A text as it was typed: on the way through fire and MONAI `007` became 7 and `1e5` became 100000.0."""
    return dict(split_flags(sys.argv[2:])).get(name) or str(value) if is_command_line() else str(value)


def one_line_excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error the user can put right is one line, however deep MONAI has wrapped it; any other keeps its traceback.

    The line ends with the wrong setting, its value and its place; the whole traceback follows with `MONAI_DEBUG=1`.
    """
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        return
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError) or (isinstance(cause, ValueError) and _is_ours(cause)):
            message = _without_worker_traceback(str(cause))
            place = origin(message, error, sys.argv[2:]) if is_command_line() else ""
            print(f"error: {message}" + (f" ({place})" if place else ""), file=sys.stderr)
            if MONAIEnvVars.debug():
                sys.__excepthook__(kind, error, trace)
            return
        if isinstance(cause, RuntimeError) and re.match(r"DataLoader worker .* (killed|exited)", str(cause)):
            advice = "give it fewer --num_workers or more memory; the same command goes on from here."
            print(f"error: a process that reads images was killed; {advice}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)


def _without_worker_traceback(message: str) -> str:
    """torch puts a loader worker's whole traceback into the message; the last line is what was meant."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised it: its constructors refuse bad arguments with a sentence meant for the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("msdino_monai.")


def finish(quarantine: Quarantine) -> None:
    """Say what was set aside; exit with status 3 if it was anything, unless torchrun or a program is waiting."""
    summary = quarantine.summary()
    if summary and rank() == 0:
        print(summary)
    if is_command_line() and not under_torchrun() and quarantine.rejected():
        sys.exit(3)


def component(part: Any) -> Any:
    """The part itself, as a component: MONAI's check of a bundle cannot read a bare reference among the handlers."""
    return part
