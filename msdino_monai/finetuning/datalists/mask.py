"""Masks that a data set does not hold as one picture, drawn as PNG files beside its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError
from msdino_monai.images.cohort.folder import encode_mask
from msdino_monai.vault.atomic import explained, make_folder


class MaskFolder:
    """A folder inside `root`, so that a datalist whose paths are relative to `root` can name what lies in it.

    By default it lies beside the datalist, under the datalist's name.
    """

    def __init__(self, root: str, masks_dir: str | None, output: Path) -> None:
        folder = output.with_name(f"{output.stem}_masks") if masks_dir is None else Path(masks_dir).expanduser()
        self.prefix = _below(folder, Path(str(root)).expanduser())
        self.folder = folder
        make_folder(folder)

    def write(self, name: str, mask: npt.NDArray[np.uint8]) -> str:
        """Draw one mask, whole or not at all; returns its path as the datalist writes it."""
        path = self.folder / f"{name}.png"
        draft = self.folder / f".{name}.part"
        with explained(path):
            draft.write_bytes(encode_mask(mask))
            draft.replace(path)
        return (self.prefix / path.name).as_posix()


def _below(folder: Path, root: Path) -> Path:
    """The way from `root` down to `folder`, as typed or with links resolved."""
    for inner, outer in ((folder.absolute(), root.absolute()), (folder.resolve(), root.resolve())):
        if inner.is_relative_to(outer) and ".." not in inner.relative_to(outer).parts:
            return inner.relative_to(outer)
    raise UserError(
        f"masks would lie in {folder}, outside --root {root}, where a datalist cannot name them; give --masks_dir a "
        "folder inside --root (is the data read-only? then let --root be a new folder that holds a link to it)."
    )
