"""DINO as it was: crops of images that lie in one place. What MS-DINO is compared with, and for who may pool images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from msdino_monai.distributed import rank
from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.files import existing_folder, find_images
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiographd
from msdino_monai.networks import PatchEmbedding
from msdino_monai.pretraining.keyed import keyed_uniform
from msdino_monai.pretraining.labelled import read_sections
from msdino_monai.pretraining.sampling import Share, Subsets, check_share

# What a random number is for; two uses must not share their bits.
_LARGE, _SMALL = 200, 201
_AREA, _RATIO, _ROW, _COLUMN, _ANGLE, _GAMMA = range(6)


class FirstRanksQuarantine(Quarantine):
    """For what every rank reads: the first one notes which files cannot be used, once."""

    def clear(self, keep_flags: bool = False) -> None:
        if rank() == 0:
            super().clear(keep_flags)

    def reject(self, file: str, error: RadiographError) -> None:
        if rank() == 0:
            super().reject(file, error)

    def flag(self, file: str, reason: str) -> None:
        if rank() == 0:
            super().flag(file, reason)


class GatheredImages:
    """Radiographs of one or several hospitals in memory, with what `TokenStore` says of exports.

    `dataset_dir` holds one folder for each hospital. Where there is a `datalist.json`, its training section is taken;
    otherwise every image. One byte a pixel: 100,000 images of 280 pixels take 8 GB.

    Args:
        embedding: what turns crops into tokens.
        img_size: side of the square images that are kept; crops are taken from these.
        quarantine: where unusable files are noted, those of this reading alone.
    """

    num_views = 1

    def __init__(
        self, dataset_dir: str | Path, embedding: PatchEmbedding, img_size: int, quarantine: Quarantine
    ) -> None:
        quarantine.clear()
        load = LoadRadiographd("image", img_size=img_size)
        root = existing_folder(dataset_dir)
        images, self.sites = [], []
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            samples = UsableImages(_training_items(folder), load, folder, quarantine)
            read = [_as_bytes(sample["image"].as_tensor()) for sample in samples]
            images += read
            self.sites.append((folder.name, len(read)))
        if not images:
            raise UserError(
                f"no usable image in the folders in {root}; give the folder that holds the hospitals' folders."
            )
        self._images = torch.stack(images).numpy()
        self.embedder, self.embedding_dim = embedding.describe(), embedding.embedding_dim

    def __len__(self) -> int:
        return len(self._images)

    def gather(self, images: npt.ArrayLike, views: npt.ArrayLike = 0) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        """(B, 1, H, W); of each image there is one view, itself."""
        return np.asarray(self._images[np.asarray(images)])

    def manifests(self) -> list[dict[str, Any]]:
        """What a model trained on these should record; there are no exports to name."""
        return [
            {"site_id": name, "images": count, "images_sha256": hashlib.sha256(part.tobytes()).hexdigest()}
            for (name, count), part in zip(self.sites, self._parts(), strict=True)
        ]

    def _parts(self) -> list[npt.NDArray[np.uint8]]:
        return np.split(self._images, np.cumsum([count for _, count in self.sites])[:-1])


def _training_items(folder: Path) -> Sequence[Mapping[str, Any]]:
    datalist = folder / "datalist.json"
    if not datalist.exists():
        return [{"image": name} for name in find_images(folder)]
    items = read_sections(datalist).get("training")
    if not items:
        raise UserError(f"datalist {datalist} has no training entries; add some, or remove it to take every image.")
    return [{"image": item["image"]} for item in items]


def _as_bytes(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().to(torch.uint8)


class CropSampling:
    """Random crops of a batch's images as tokens, on its device; a `prepare_batch` in `MaskedSampling`'s place.

    Two large crops of the embedder's own size, for teacher and student, and small ones of half that side for the
    student; each turned a little and with contrast of its own. Position codes are stretched to the small grid, as DINO
    does. No flips: the heart lies on one side. A function of seed, epoch and image.

    Args:
        embedding: turns crops into tokens.
        global_area, local_area: which share of the image's area a crop covers, or two bounds to draw from.
        num_local: small crops of each image.
        rotate: largest angle, in radians.
        gamma: bounds of the exponent.
        seed: of all that is drawn.
    """

    num_large = 2

    def __init__(
        self,
        embedding: PatchEmbedding,
        global_area: Share = (0.4, 1.0),
        local_area: Share = (0.1, 0.4),
        num_local: int = 4,
        rotate: float = 0.1,
        gamma: tuple[float, float] = (0.7, 1.4),
        seed: int = 0,
    ) -> None:
        self.global_area = check_share("global_area", global_area)
        self.local_area = check_share("local_area", local_area)
        if num_local < 0:
            raise ValueError(f"num_local must not be negative, got {num_local}.")
        self.num_local, self.rotate, self.gamma, self.seed = num_local, rotate, gamma, seed
        self.embedding, self.patch_size = embedding, embedding.patch_size
        self.side = embedding.img_size // embedding.patch_size
        self.small_side = max(1, self.side // 2)

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | str | None, non_blocking: bool = False, **_: Any
    ) -> tuple[Subsets, None]:
        """`image` (B, 1, 1, H, W) in bytes, `index` (B,) and `epoch` to the batch's crops; there are no labels."""
        images = batch["image"].to(device, non_blocking=non_blocking).squeeze(1).float() / 255
        keys = (self.seed, int(batch["epoch"]), np.asarray(batch["index"]))
        large = self._crops(images, _LARGE, self.num_large, self.global_area, self.side, keys)
        if not self.num_local:
            return Subsets(large), None
        return Subsets(large, self._crops(images, _SMALL, self.num_local, self.local_area, self.small_side, keys)), None

    def _crops(
        self, images: torch.Tensor, use: int, count: int, area: Share, side: int, keys: tuple[Any, ...]
    ) -> torch.Tensor:
        """(B, 1, H, W) to (count, B, side * side, D)."""

        def draw(what: int, low: float, high: float) -> npt.NDArray[np.float64]:
            return low + (high - low) * keyed_uniform(use, what, np.arange(count)[:, None], *keys)  # (count, B)

        low, high = (area, area) if isinstance(area, int | float) else area
        covered, ratio = draw(_AREA, low, high), np.exp(draw(_RATIO, math.log(3 / 4), math.log(4 / 3)))
        height, width = np.minimum(1.0, np.sqrt([covered / ratio, covered * ratio]))
        row, column = draw(_ROW, -1, 1) * (1 - height), draw(_COLUMN, -1, 1) * (1 - width)
        angle = draw(_ANGLE, -self.rotate, self.rotate)
        cosine, sine = np.cos(angle), np.sin(angle)
        theta = np.stack(
            [
                np.stack([cosine * width, -sine * height, column], axis=-1),
                np.stack([sine * width, cosine * height, row], axis=-1),
            ],
            axis=-2,
        )
        batch, size = len(images), side * self.patch_size
        places = F.affine_grid(
            torch.from_numpy(theta).float().flatten(0, 1).to(images.device),
            [count * batch, 1, size, size],
            align_corners=False,
        )
        crops = F.grid_sample(images.repeat(count, 1, 1, 1), places, align_corners=False)
        gamma = torch.from_numpy(draw(_GAMMA, *self.gamma)).float().flatten().to(images.device)
        tokens = self._embed(crops.clamp(0, 1) ** gamma[:, None, None, None], side)
        return tokens.reshape(count, batch, *tokens.shape[1:])

    def _embed(self, crops: torch.Tensor, side: int) -> torch.Tensor:
        """Tokens of crops of any size, with position codes stretched to their grid."""
        tokens = F.conv2d(2.0 * crops - 1.0, self.embedding.weight, stride=self.patch_size).flatten(2).transpose(1, 2)
        codes = self.embedding.positions
        if side != self.side:
            grid = codes.T.reshape(1, -1, self.side, self.side)
            codes = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)[0].flatten(1).T
        return tokens + codes
