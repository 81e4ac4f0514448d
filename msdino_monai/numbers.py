"""Numbers a user gives, checked with the setting's name."""

from __future__ import annotations

from typing import Any

from msdino_monai.errors import UserError


def check_whole_numbers(minimum: int, **values: Any) -> None:
    """Refuse settings that are not whole numbers of at least `minimum`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise UserError(f"--{name} must be a whole number of at least {minimum}, got {value!r}.")


def check_shares(**values: Any) -> None:
    """Refuse settings that are not numbers of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise UserError(f"--{name} must be a number of at least 0, got {value!r}.")


def check_fractions(**values: Any) -> None:
    """Refuse settings that are not numbers from 0 to 1: 90 for 90 % would count as a result that nothing reaches."""
    check_shares(**values)
    for name, value in values.items():
        if value > 1:
            raise UserError(f"--{name} must be a number from 0 to 1, got {value!r}.")
