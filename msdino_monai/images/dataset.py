"""A data set that survives its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import apply_transform
from torch.utils.data import IterableDataset, get_worker_info

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.quarantine import Quarantine


class UsableImages(IterableDataset[dict[str, Any]]):
    """Yields what `transform` makes of each item; files it cannot use go to the quarantine and the run goes on.

    Iterable, so that batches stay full whatever is refused. Loader workers and ranks each take their share.

    Args:
        data: dictionaries whose `image` is a path relative to `dataset_dir`.
        transform: makes a sample of one item, or raises a `RadiographError`.
        quarantine: where refused and flagged files are noted.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        dataset_dir: str | Path,
        quarantine: Quarantine,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.dataset_dir = Path(dataset_dir).expanduser()
        self.quarantine = quarantine
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        for item in self.data[number * self.world_size + self.rank :: self.world_size * workers]:
            file = str(item["image"])
            try:
                sample = self.load({**item, "file": file, "image": str(self.dataset_dir / file)})
            except RadiographError as error:
                self.quarantine.reject(file, error)
                continue
            if flags := sample["image"].meta.get("flags"):
                self.quarantine.flag(file, flags)
            yield sample

    def load(self, item: dict[str, Any]) -> dict[str, Any]:
        """One sample; MONAI wraps what a transform raises, so the reason is dug out again."""
        try:
            return dict(apply_transform(self.transform, item))
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            if cause is None:
                raise
            raise cause from None
