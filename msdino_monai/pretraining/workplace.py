"""What a pretraining run needs around it: folders, seeds, who is watching, and parts chosen by a word."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from msdino_monai.distributed import rank
from msdino_monai.errors import UserError
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.machine import remember_run
from msdino_monai.pretraining.labelled import LabelledTokens, embedding_of, read_labelled
from msdino_monai.pretraining.loss import Centring, SinkhornKnopp
from msdino_monai.vault import TokenStore
from msdino_monai.vault.atomic import make_folder
from msdino_monai.workplace import own_folder


def begin(seed: int, output_dir: str | Path) -> None:
    """A folder to write to, with a note of the run, and weights that depend on the seed alone."""
    folder = Path(str(output_dir)).expanduser().resolve()
    make_folder(folder)
    remember_run(folder, seed)
    torch.manual_seed(seed)


def check_temperatures(**temperatures: Any) -> None:
    """Refuse temperatures that a softmax cannot be divided by."""
    for name, value in temperatures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"the {name} temperature must be a number above 0, got {value!r}.")


def compiled(student: nn.Module, teacher: nn.Module, compile_bodies: bool) -> nn.Module:
    """The student; both bodies through torch.compile, in place, so that their weights keep their names."""
    if compile_bodies:
        for branch in (student, teacher):
            branch.get_submodule("body").compile(dynamic=True)
    return student


def targets_of(name: str, num_prototypes: int, centre_momentum: float) -> nn.Module:
    """`sinkhorn` or `centring`."""
    if name not in ("sinkhorn", "centring"):
        raise UserError(f"--targets must be sinkhorn or centring, got {name!r}.")
    return SinkhornKnopp() if name == "sinkhorn" else Centring(num_prototypes, centre_momentum)


def read_probe_images(
    datalist: str | None,
    dataset_dir: str | None,
    store: TokenStore,
    embedder_checkpoint: str | None,
    output_dir: str | Path,
) -> dict[str, LabelledTokens] | None:
    """The labelled images of `val_datalist`, embedded as the exports were; None without one, and beyond rank 0."""
    if datalist is None or rank() > 0:
        return None
    quarantine = Quarantine(own_folder(output_dir, "probe"))
    quarantine.clear()
    folder = Path(str(datalist)).parent if dataset_dir is None else Path(str(dataset_dir))
    return read_labelled(str(datalist), folder, embedding_of(store.embedder, embedder_checkpoint), quarantine)


def is_watched() -> bool:
    """Whether somebody sits before this rank's terminal."""
    return rank() == 0 and sys.stderr.isatty()
