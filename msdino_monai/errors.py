"""The errors a user can put right."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the message is one line that says what to do next."""


class RadiographError(UserError):
    """One file that cannot be used: the step that refused it, why, and what to do about it."""

    def __init__(self, step: str, reason: str, advice: str) -> None:
        super().__init__(f"{step}: {reason}; {advice}")
        self.step = step
        self.reason = reason
        self.advice = advice

    def __reduce__(self) -> tuple[type[RadiographError], tuple[str, str, str]]:
        return type(self), (self.step, self.reason, self.advice)  # loader workers send it to the main process


def one_line(error: BaseException) -> str:
    """What some library raised, short enough for a row of a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
