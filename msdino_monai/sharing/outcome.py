"""What the checks of a bundle found: one row each."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msdino_monai.errors import UserError, one_line

PASS, FAIL, LEFT_OUT = "pass", "FAIL", "left out"


class LeftOut(Exception):  # noqa: N818 -- not an error
    """A check that cannot be made here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One check of one bundle."""

    check: str
    outcome: str
    seconds: float
    note: str

    def __str__(self) -> str:
        shown = "".join(each if each.isprintable() else "?" for each in self.note)  # a stranger's words
        return f"  {self.check:<20} {self.outcome:<8} {self.seconds:>6.1f} s  {shown}".rstrip()


def make_check(name: str, check: Callable[[], str]) -> Row:
    """Run one check; whatever it raises is a failure, and its reason one line."""
    begun = time.monotonic()
    try:
        with _quiet():
            outcome, note = PASS, check()
    except LeftOut as reason:
        outcome, note = LEFT_OUT, str(reason)
    except Exception as error:
        outcome, note = FAIL, reason_of(error)
    return Row(name, outcome, time.monotonic() - begun, note)


def reason_of(error: BaseException) -> str:
    """What a user can put right, however deep MONAI has wrapped it; else what was raised, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        last, cause = cause, cause.__cause__ or cause.__context__
    return one_line(last if isinstance(error, RuntimeError) else error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MONAI, the exporters and the synthetic data talk; a table does not want it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
