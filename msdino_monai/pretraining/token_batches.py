"""Batches of token sets from the store, in an order that is a function of seed and epoch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from msdino_monai.errors import UserError
from msdino_monai.pretraining.keyed import keyed_bits, keyed_order
from msdino_monai.vault import TokenStore

_ORDER, _VIEW = 100, 101


class TokenBatches:
    """One pass yields the batches of one epoch that are not consumed yet, this rank's share of each.

    `iteration` counts the batches consumed since the beginning of the training. Set it, and the next pass goes on
    from there: a resumed training sees what an uninterrupted one would have seen.

    Args:
        store: the exports.
        batch_size: images of this rank in a batch; what does not fill a last batch waits for another epoch's order.
        different_views: give all views of an image, so that its subsets come from different ones; else one of them.
        seed: of the order and of the choice of view.
        prefetch: batches read ahead by a thread, worth it where a GPU waits.
    """

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        different_views: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 0,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (the head compares images), got {batch_size}.")
        if len(store) < batch_size * world_size:
            raise UserError(
                f"{len(store)} images do not fill one batch of {batch_size * world_size}; set a smaller --batch_size."
            )
        self.store, self.batch_size, self.different_views, self.seed = store, batch_size, different_views, seed
        self.rank, self.world_size, self.prefetch = rank, world_size, prefetch
        self.iteration = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.store) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, first = divmod(self.iteration, len(self))
        order = keyed_order(len(self.store), self.seed, epoch, _ORDER)
        batches = (self._batch(order, epoch, number) for number in range(first, len(self)))
        for batch in read_ahead(batches, self.prefetch) if self.prefetch else batches:
            self.iteration += 1
            yield batch

    def _batch(self, order: np.ndarray[Any, np.dtype[np.int64]], epoch: int, number: int) -> dict[str, Any]:
        first = (number * self.world_size + self.rank) * self.batch_size
        images = order[first : first + self.batch_size]
        return {
            "image": torch.from_numpy(self._tokens(images, epoch)),
            "index": images,
            "epoch": epoch,
            "batch": number,
        }

    def _tokens(self, images: np.ndarray[Any, np.dtype[np.int64]], epoch: int) -> np.ndarray[Any, np.dtype[Any]]:
        """(B, V, K, D)"""
        num_views = self.store.num_views
        if not self.different_views or num_views == 1:
            views = (keyed_bits(self.seed, epoch, _VIEW, images) % np.uint64(num_views)).astype(np.int64)
            return self.store.gather(images, views)[:, None]
        rows = self.store.gather(np.repeat(images, num_views), np.tile(np.arange(num_views), len(images)))
        return rows.reshape(len(images), num_views, *rows.shape[1:])


def read_ahead(batches: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The same batches, read by a thread that is `count` ahead; an error in it is raised here."""
    waiting: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(count)
    stopped = threading.Event()

    def read() -> None:
        last: BaseException | None = None
        try:
            for batch in batches:
                waiting.put(batch)
                if stopped.is_set():
                    return
        except BaseException as error:
            last = error
        waiting.put(last)

    threading.Thread(target=read, daemon=True, name="token batches").start()
    try:
        while (batch := waiting.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stopped.set()
        while not waiting.empty():
            waiting.get_nowait()
