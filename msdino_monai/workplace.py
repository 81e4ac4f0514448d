"""What every training needs around it: places to write, and whether somebody looks on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msdino_monai.distributed import rank


def own_folder(output_dir: str | Path, name: str) -> str:
    """The absolute path of a file or folder in `output_dir`."""
    return str(Path(str(output_dir)).expanduser().resolve() / name)


def shows_curves() -> bool:
    """Whether this rank writes for TensorBoard, and can."""
    return rank() == 0 and find_spec("tensorboard") is not None


def loss_of(output: dict[str, Any]) -> float:
    """One iteration's loss, for logs."""
    return float(output["loss"].detach())
