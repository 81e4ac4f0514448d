"""In which order images are shown: a function of seed and epoch, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that loader workers can make augmentation a function of both.

    All ranks get equally many; the first images are shown again where the count does not divide.

    Args:
        count: how many images there are.
        seed: which order; another one every epoch.
        shuffle: False for the order of the list.
    """

    def __init__(self, count: int, seed: int = 0, rank: int = 0, world_size: int = 1, shuffle: bool = True) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.count))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
        total = len(self) * self.world_size
        order = (order * -(-total // self.count))[:total]
        return iter([(self.epoch, index) for index in order[self.rank :: self.world_size]])
