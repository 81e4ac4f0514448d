"""From a network's probabilities back to the file they came from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from msdino_monai.finetuning.segmentation.mask import affine_of, volume_shape
from msdino_monai.images.files import NIFTI, kind_of
from msdino_monai.images.geometry import Geometry, to_stored_grid
from msdino_monai.images.in_memory import COLUMNS_FIRST, IN_MEMORY


class ToStoredGridd(MapTransform):
    """Probabilities (C, *img_size) to the grid of the file their image was loaded from, (C, H, W)."""

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        placed = dict(data)
        meta = placed[self.image_key].meta
        for key in self.key_iterator(placed):
            values = torch.as_tensor(placed[key])
            values = values.as_tensor() if isinstance(values, MetaTensor) else values
            stored = to_stored_grid(values, Geometry.of(meta, values.shape[-2:]))
            placed[key] = MetaTensor(stored, meta={"filename_or_obj": str(meta.get("filename_or_obj", ""))})
        return placed


class ToViewerAxesd(MapTransform):
    """A mask (1, H, W) to a volume of one slice on the axes of NIfTI and ITK, (W, H, 1), as viewers expect it.

    A NIfTI image's mask has the image's own shape. The affine is noted in the mask's and the image's meta; MONAI Label
    writes it to volumes only, and several layers (classes, W, H, 1) as `.seg.nrrd` only. For an image without a file
    the channel stays, (1, W, H, 1): MONAI Deploy's operators take it away themselves.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        turned = dict(data)
        image = turned[self.image_key]
        if image.meta.get(IN_MEMORY):
            for key in self.key_iterator(turned):
                layers = turned[key] if image.meta[COLUMNS_FIRST] else turned[key].transpose(-2, -1)
                turned[key] = MetaTensor(layers.as_tensor()[..., None].contiguous(), meta=dict(turned[key].meta))
            return turned
        path = image.meta["filename_or_obj"]
        shape = volume_shape(path) if kind_of(path) == NIFTI else None
        for key in self.key_iterator(turned):
            mask = turned[key]
            meta = {name: value for name, value in mask.meta.items() if name != "affine"}
            layers = mask.as_tensor()
            volumes = layers.reshape(-1, *shape) if shape else layers.transpose(-2, -1)[..., None]  # (1, W, H, 1)
            affine = torch.from_numpy(affine_of(path))
            volume = volumes[0] if len(volumes) == 1 else volumes
            turned[key] = MetaTensor(volume.contiguous(), affine=affine, meta=meta)
            image.affine = affine
        return turned
