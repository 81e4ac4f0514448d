"""Predicted masks as NIfTI on the grid of their volume, and the table that links each to what it was made from."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel
import numpy as np
from ignite.engine import Engine
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged
from monai.utils import MetaKeys

from msdino_monai.errors import UserError
from msdino_monai.finetuning.segmentation.prediction import Predictions, without_suffix
from msdino_monai.finetuning.segmentation.task import Task
from msdino_monai.images.in_memory import IN_MEMORY
from msdino_monai.vault.atomic import make_folder, write_file


class SaveVolumed(SaveImaged):
    """Writes a mask as NIfTI with its volume's shape and affine, under the volume's path and name.

    A `SaveImaged`, so that MONAI Label, which saves by itself, leaves it out. The mask's meta then knows `saved_to`,
    `voxels` (how many of each class) and `millilitres`. The mask of a volume without a file is left to the program.

    Args:
        keys: the mask, decided, (1, X, Y, Z) on the volume's own grid.
        output_dir: where to.
        dataset_dir: what the volumes' paths are relative to.
        task: whose classes the mask has.
        image_key: the volume, for the path in its meta.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        dataset_dir: str | Path | None,
        task: Task,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys, output_dir=output_dir, output_ext=".nii.gz", output_dtype=np.uint8, print_log=False)
        self.output_dir = Path(output_dir).expanduser()
        self.dataset_dir = None if dataset_dir is None else Path(dataset_dir).expanduser().absolute()
        if self.dataset_dir is not None and self.output_dir.resolve() == self.dataset_dir.resolve():
            raise UserError("output_dir is dataset_dir, where masks could overwrite yours; name another --output_dir.")
        self.task, self.image_key = task, image_key
        self._short: dict[Path, Counter[str]] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        if saved[self.image_key].meta.get(IN_MEMORY):
            return saved
        for key in self.key_iterator(saved):
            decided = saved[key]
            name = f"{self.name_of(Path(str(saved[self.image_key].meta['source'])))}.nii.gz"
            make_folder((self.output_dir / name).parent)
            write_file(self.output_dir / name, encode_nifti(decided))
            layers = self.task.layers(decided.as_tensor().cpu())
            voxels = dict(zip(self.task.classes, layers.flatten(1).sum(dim=1).tolist(), strict=True))
            millilitres = abs(float(np.linalg.det(np.asarray(decided.affine)[:3, :3]))) / 1000
            decided.meta["saved_to"], decided.meta["voxels"] = name, voxels
            decided.meta["millilitres"] = {each: count * millilitres for each, count in voxels.items()}
        return saved

    def name_of(self, volume: Path) -> str:
        """The mask's path without its suffix: `a/1.nii.gz` gives `a/1_mask`, beside `a/1.nii` `a/1.nii.gz_mask`."""
        volume = volume.absolute()
        if volume.parent not in self._short:
            names = (path.name for path in volume.parent.iterdir())
            self._short[volume.parent] = Counter(without_suffix(name).casefold() for name in names)
        inside = self.dataset_dir is not None and volume != self.dataset_dir and volume.is_relative_to(self.dataset_dir)
        relative = volume.relative_to(self.dataset_dir).as_posix() if inside and self.dataset_dir else volume.name
        short = volume.name if volume.is_dir() else without_suffix(volume.name)
        unique = self._short[volume.parent][without_suffix(volume.name).casefold()] <= 1
        return PurePosixPath(relative).with_name(f"{short if unique else volume.name}_mask").as_posix()


class ToViewerGridd(MapTransform):
    """Notes in the image's meta, in plain numbers, the shape of its mask (1, X, Y, Z) on the image's own grid.

    MONAI Label compares the two with numpy before it writes a mask, and fails on a tensor.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        noted = dict(data)
        for key in self.key_iterator(noted):
            noted[self.image_key].meta[MetaKeys.SPATIAL_SHAPE] = tuple(noted[key].shape[1:])
        return noted


def encode_nifti(mask: MetaTensor) -> bytes:
    """A gzipped NIfTI of class numbers (1, X, Y, Z); the same mask gives the same bytes."""
    image = nibabel.Nifti1Image(mask.as_tensor()[0].cpu().numpy().astype(np.uint8), np.asarray(mask.affine))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


class VolumePredictions(Predictions):
    """`Predictions` of volumes: of every class how many voxels and millilitres."""

    def add(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            meta = output["pred"].meta
            sizes: dict[str, Any] = {}
            for name in self.classes:
                sizes[f"{name}_voxels"] = meta["voxels"][name]
                sizes[f"{name}_ml"] = meta["millilitres"][name]
            self.rows.append({"file": item["file"], "mask": meta["saved_to"], **sizes, **self.about})
