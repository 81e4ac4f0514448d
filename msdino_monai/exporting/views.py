"""Several augmented views of one image, and who is in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pydicom
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform, apply_transform

from msdino_monai.images.files import DICOM, kind_of


class AugmentedViewsd(MapTransform):
    """An image (1, H, W) to `num_views` independently augmented views (V, 1, H, W)."""

    def __init__(self, keys: KeysCollection, augment: Callable[[Any], Any], num_views: int = 1) -> None:
        super().__init__(keys)
        if num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {num_views}.")
        self.augment, self.num_views = augment, num_views

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        views = dict(data)
        for key in self.key_iterator(views):
            image = torch.as_tensor(views[key])
            self._draw_afresh()
            augmented = [apply_transform(self.augment, image.clone()) for _ in range(self.num_views)]
            stacked = torch.stack([torch.as_tensor(view).clamp(0.0, 1.0) for view in augmented])  # V x (1, H, W)
            views[key] = MetaTensor(stacked, meta=getattr(views[key], "meta", None))
        return views

    def _draw_afresh(self) -> None:
        """Take each image's randomness from the operating system: forked workers would all draw the same."""
        if isinstance(self.augment, Randomizable):
            self.augment.set_random_state(seed=int.from_bytes(os.urandom(4), "little"))


class LoadPatientd(MapTransform):
    """Note whose image a DICOM file is, so that a patient can be withdrawn; a datalist's `patient` wins.

    The identifier never leaves the process: the export keeps a salted hash in the hospital's own state_dir.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item["patient"] = str(item.get("patient") or _patient_in_header(item[key]))
        return item


def _patient_in_header(path: str) -> str:
    if kind_of(path) != DICOM:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(
                pydicom.dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID") or ""
            )
        except Exception:  # a header this broken is refused with its reason by the reader, which comes next
            return ""


def views_as_batch(
    batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, None]:
    """MONAI's `prepare_batch` for views: (B, V, 1, H, W) -> (B * V, 1, H, W), no label."""
    views = torch.as_tensor(batchdata["image"]).flatten(0, 1)
    return views.to(device=device, non_blocking=non_blocking), None


def describe_transform(transform: Any) -> Any:
    """Plain JSON that differs where two augmentations differ, for the settings two runs must agree on."""
    if isinstance(transform, Compose):
        return [describe_transform(part) for part in transform.transforms]
    settings = {name: value for name, value in vars(transform).items() if not name.startswith("_")}
    nested = {name: describe_transform(value) for name, value in settings.items() if isinstance(value, Transform)}
    plain = {name: value for name, value in settings.items() if _is_plain(value)}
    return {"name": type(transform).__name__, **plain, **nested}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))
