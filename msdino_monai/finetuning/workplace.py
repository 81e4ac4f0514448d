"""What a fine-tuning run needs around it: a folder, a seed, who is watching, and ranks that know of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from msdino_monai.distributed import under_torchrun, world_size
from msdino_monai.errors import UserError
from msdino_monai.machine import remember_run
from msdino_monai.vault.atomic import make_folder


def file_names(texts: Sequence[str]) -> list[str]:
    """Parts of file names: without odd characters, and no two alike."""
    safe = [re.sub(r"[^\w.-]+", "_", text)[-80:] for text in texts]
    return [name if safe.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(safe, start=1)]


def begin(seed: int, output_dir: str | Path, multi_gpu: bool) -> None:
    """A folder to write to, with a note of the run, and weights that depend on the seed alone."""
    if under_torchrun() and world_size() > 1 and not multi_gpu:
        raise UserError(
            "started by torchrun without multi_gpu_train.json; "
            "give --config_file \"['configs/train.json','configs/multi_gpu_train.json']\"."
        )
    folder = Path(str(output_dir)).expanduser().resolve()
    make_folder(folder)
    remember_run(folder, seed)
    torch.manual_seed(seed)


def text_or_none(value: Any) -> str | None:
    """A path as text; MONAI's command line makes numbers of texts that look like some."""
    return None if value is None else str(value)
