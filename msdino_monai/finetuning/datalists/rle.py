"""Run-length codes of masks: pairs of start and length, down each column, columns from left to right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError

KINDS = ("relative", "absolute")


def decode_rle(code: str, height: int, width: int, kind: str = "relative") -> npt.NDArray[np.bool_]:
    """A (height, width) mask.

    Args:
        code: `start length start length ...`; empty or `-1` for an empty mask.
        kind: `relative` starts count pixels since the end of the run before; `absolute` ones count from 1, the first
            pixel of the image.
    """
    if kind not in KINDS:
        raise UserError(f"--rle must be one of {', '.join(KINDS)}, got {kind!r}.")
    flat = np.zeros(height * width, dtype=bool)
    if code.strip() not in ("", "-1"):
        for start, stop in _runs(code, kind, flat.size):
            flat[start:stop] = True
    return flat.reshape((height, width), order="F")


def _runs(code: str, kind: str, size: int) -> list[tuple[int, int]]:
    """First pixel and the one after the last, of each run."""
    other = KINDS[1 - KINDS.index(kind)]
    try:
        numbers = np.array(code.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"run lengths {code[:40]!r} are not whole numbers; copy the table again.") from None
    if numbers.size % 2:
        raise UserError(f"run lengths {code[:40]!r} are {numbers.size} numbers, not pairs; copy the table again.")
    given, lengths = numbers[::2], numbers[1::2]
    starts = np.cumsum(given) + np.cumsum(lengths) - lengths if kind == "relative" else given - 1
    stops = starts + lengths
    if (lengths < 0).any() or starts[0] < 0 or (starts[1:] < stops[:-1]).any() or stops[-1] > size:
        raise UserError(f"run lengths {code[:40]!r} do not fit {size} pixels as {kind} ones; is it --rle {other}?")
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
