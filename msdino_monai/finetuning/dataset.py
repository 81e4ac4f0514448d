"""Labelled images for training and validation: read once, augmented as a function of seed, epoch and image."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Compose, apply_transform
from torch.utils.data import Dataset

from msdino_monai.distributed import rank
from msdino_monai.errors import RadiographError, UserError
from msdino_monai.finetuning.resume import mixed_seed
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.vault.atomic import make_folder, make_private_folder

_log = logging.getLogger(__name__)
Item = Mapping[str, Any]
_OURS = re.compile(r"[0-9a-f]{40}\.pt|\.[0-9a-f]{16}\.tmp")


class ImageCache:
    """Samples as they were read, in float16, one file each; loader workers, ranks and later runs share them.

    They are pixels of patients: the folder is readable by its owner only, and `remove` takes it away.

    Args:
        folder: where; None reads the images every time.
        made_with: settings that shape a sample; others make other files.
    """

    def __init__(self, folder: str | Path | None, made_with: Mapping[str, Any] | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.made_with = dict(made_with or {})

    def through(self, item: Item, load: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """What `load` makes of an item, or what it made of it before."""
        if self.folder is None:
            return load(dict(item))
        path = self.folder / f"{self._key(item)}.pt"
        if (found := _read(path)) is not None:
            return {**item, **found}
        sample = load(dict(item))
        kept = {name: _narrowed(value) for name, value in sample.items() if isinstance(value, torch.Tensor)}
        if not path.parent.is_dir():
            make_private_folder(path.parent)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        torch.save(kept, temporary)
        temporary.replace(path)
        return {**item, **{name: _widened(tensor) for name, tensor in kept.items()}}  # as the next reader gets it

    def remove(self) -> None:
        if rank() == 0 and self.folder is not None and self.folder.is_dir():
            for path in [*self.folder.glob("*.pt"), *self.folder.glob(".*.tmp")]:
                if _OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            with suppress(OSError):  # something of somebody else's lies there
                self.folder.rmdir()

    def _key(self, item: Item) -> str:
        paths = [Path(value) for value in item.values() if isinstance(value, str)]
        files = [path.stat() for path in paths if path.is_absolute() and path.is_file()]
        states = [[file.st_size, file.st_mtime_ns] for file in files]
        said = json.dumps([self.made_with, dict(item), states], sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:40]


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    """What a file of the cache holds; one that a crash has torn is removed, to be made again."""
    if not path.exists():
        return None
    try:
        return {name: _widened(tensor) for name, tensor in torch.load(path, weights_only=True).items()}
    except Exception as error:  # torch has many
        _log.warning("%s of the cache cannot be read (%s); its image is read again.", path.name, error)
        path.unlink(missing_ok=True)
        return None


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain.half() if plain.dtype == torch.float32 else plain.clone()


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class TrainingQuarantine(Quarantine):
    """One row for each file, however many epochs, workers and ranks meet it."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._noted: set[str] = set()

    def reject(self, file: str, error: RadiographError) -> None:
        if file in self._noted:
            return
        self._noted.add(file)
        if all(row["file"] != file for row in self.rejected()):
            make_folder(self.quarantined.parent)
            super().reject(file, error)
            _log.warning("%s cannot be used: %s", file, error)


class TrainingImages(Dataset[dict[str, Any]]):
    """Map-style, for an `EpochSampler`: item (epoch, index). A file that cannot be used is quarantined, the next
    usable one takes its place.

    Args:
        data: dictionaries with absolute paths; `file`, if there is one, is the name for the quarantine.
        transform: what is the same every time; from the cache after the first.
        augment: MONAI transforms on the sample's dictionary, seeded by seed, epoch and index.
        quarantine: where refused files are noted.
        cache: None reads the images every time.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        quarantine: Quarantine,
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        cache: ImageCache | None = None,
        seed: int = 0,
    ) -> None:
        self.data, self.transform, self.quarantine, self.seed = list(data), transform, quarantine, seed
        self.augment = augment if isinstance(augment, Compose) else Compose([] if augment is None else [augment])
        self.cache = cache or ImageCache(None)
        self._reader = UsableImages([], transform, ".", quarantine)

    def __len__(self) -> int:
        return len(self.data)

    def usable(self) -> int:
        """How many of the items are not in the quarantine; who is, shows when the first epoch is over."""
        refused = {row["file"] for row in self.quarantine.rejected()}
        return sum(_name(item) not in refused for item in self.data)

    def __getitem__(self, place: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = place if isinstance(place, tuple) else (0, place)
        sample = self._usable(index)
        self.augment.set_random_state(seed=mixed_seed(self.seed, epoch, index))
        augmented = dict(apply_transform(self.augment, sample))
        return {name: _plain(value) for name, value in augmented.items()}

    def _usable(self, index: int) -> dict[str, Any]:
        for step in range(len(self.data)):
            item = self.data[(index + step) % len(self.data)]
            try:
                return self.cache.through(item, self._reader.load)
            except RadiographError as error:
                self.quarantine.reject(_name(item), error)
        raise UserError(f"no image of the training section can be used; {self.quarantine.quarantined} says why.")


def _name(item: Item) -> str:
    """What the quarantine calls it."""
    return str(item.get("file", item["image"]))


def _plain(value: Any) -> Any:
    """Without meta data, which batches of differently shaped files cannot hold."""
    return value.as_tensor() if isinstance(value, MetaTensor) else value


class ValidationImages(UsableImages):
    """Every usable image once, in the list's order, from the cache after the first time."""

    def __init__(self, *arguments: Any, cache: ImageCache | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.cache = cache or ImageCache(None)

    def load(self, item: dict[str, Any]) -> dict[str, Any]:
        sample = self.cache.through(item, super().load)
        return {**sample, "image": MetaTensor(sample["image"])}


class ForgetsLength:
    """Attach it to an evaluator of `ValidationImages`: how many batches there are shows anew in every run.

    Remembered, a rank without a batch would leave out all later runs, and the others would wait for it for ever.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        engine.state.epoch_length = None
