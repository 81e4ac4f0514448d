"""Several augmented views of one image, and who is in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, Randomizable, Transform, apply_transform
from monai.utils import convert_to_tensor


class AugmentedViewsd(MapTransform):
    """An image (1, H, W) to `num_views` independently augmented views (V, 1, H, W).

    Args:
        augment: makes one view of the image.
        num_views: V.
        randomness: so many random bytes, to draw the augmentations from.
    """

    def __init__(
        self,
        keys: KeysCollection,
        augment: Callable[[Any], Any],
        num_views: int = 1,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(keys)
        if num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {num_views}.")
        self.augment, self.num_views, self.randomness = augment, num_views, randomness

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        views = dict(data)
        for key in self.key_iterator(views):
            # Each image's randomness comes from the operating system: forked workers would all draw the same.
            seed = int.from_bytes(self.randomness(16), "little")
            _draw_from(np.random.RandomState(np.random.PCG64(seed)), self.augment)
            image = convert_to_tensor(views[key], track_meta=False)
            with _without_meta():
                augmented = [apply_transform(self.augment, image.clone()) for _ in range(self.num_views)]
            stacked = torch.stack([torch.as_tensor(view) for view in augmented]).clamp_(0.0, 1.0)  # V x (1, H, W)
            views[key] = MetaTensor(stacked, meta=getattr(views[key], "meta", None))
        return views


def _draw_from(state: np.random.RandomState, augment: Any) -> None:
    """Hand `state` to every part; `Compose` would seed a slow one of its own for each."""
    if type(augment) is Compose:
        for part in augment.transforms:
            _draw_from(state, part)
    elif isinstance(augment, Randomizable):
        augment.set_random_state(state=state)


@contextmanager
def _without_meta() -> Iterator[None]:
    """Spare MONAI's transforms their notes on how a view was made: nobody may undo it, and they cost as much again."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


class LoadPatientd(MapTransform):
    """Note whose image a DICOM file is, so that a patient can be withdrawn; a datalist's `patient` wins.

    Comes after `LoadRadiographd(with_patient=True)`. The identifier never leaves the process: the export keeps a salted
    hash in the hospital's own state_dir.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item["patient"] = str(item.get("patient") or item[key].meta.pop("patient"))
        return item


def collate_views(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the export needs of a batch, and no more: every other tensor costs a file descriptor on its way."""
    images = torch.stack([sample["image"].as_tensor() for sample in samples])  # B x (V, 1, H, W) -> (B, V, 1, H, W)
    return {"image": images, **{key: [sample[key] for sample in samples] for key in ("image_id", "patient")}}


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
