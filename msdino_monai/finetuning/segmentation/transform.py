"""From a network's probabilities back to the file they came from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from msdino_monai.finetuning.segmentation.mask import affine_of
from msdino_monai.images.files import NIFTI, kind_of
from msdino_monai.images.geometry import Geometry, to_stored_grid


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
            placed[key] = MetaTensor(stored, meta={"filename_or_obj": meta["filename_or_obj"]})
        return placed


class ToViewerAxesd(MapTransform):
    """A mask (1, H, W) to the axes of NIfTI and ITK, (W, H), where viewers and MONAI Label expect them.

    A NIfTI image's own axes are those already. The affine is noted in the mask's and the image's meta.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        turned = dict(data)
        image = turned[self.image_key]
        path = image.meta["filename_or_obj"]
        is_nifti = kind_of(path) == NIFTI
        for key in self.key_iterator(turned):
            mask = turned[key]
            meta = {name: value for name, value in mask.meta.items() if name != "affine"}
            mask = mask.as_tensor() if is_nifti else mask.as_tensor().transpose(-2, -1)  # (1, H, W) -> (1, W, H)
            affine = torch.from_numpy(affine_of(path))
            flat = mask[0] if mask.shape[0] == 1 else mask
            turned[key] = MetaTensor(flat.contiguous(), affine=affine, meta=meta)
            image.affine = affine
        return turned
