from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretraining_runs import EMBEDDER, store_of, write_export

from msdino_monai.errors import UserError
from msdino_monai.pretraining import TokenBatches
from msdino_monai.pretraining.token_batches import read_ahead
from msdino_monai.vault import TokenStore
from msdino_monai.vault.export import Export


@pytest.fixture
def store(export: Path) -> TokenStore:
    return store_of(export)


def take(batches: TokenBatches, epochs: int = 1) -> list[dict[str, Any]]:
    return [batch for _ in range(epochs) for batch in batches]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["index"].tolist() == other["index"].tolist()
        assert torch.equal(one["image"], other["image"])
        assert (one["epoch"], one["batch"]) == (other["epoch"], other["batch"])


def test_epoch_takes_every_image_once_and_the_next_in_another_order(store: TokenStore) -> None:
    first, second = take(TokenBatches(store, 4)), take(TokenBatches(store, 4), 2)[3:]
    for epoch in (first, second):
        assert sorted(np.concatenate([batch["index"] for batch in epoch])) == list(range(12))
    assert [batch["index"].tolist() for batch in first] != [batch["index"].tolist() for batch in second]
    assert {batch["epoch"] for batch in second} == {1}


def test_batches_hold_the_stores_tokens_of_one_of_the_views(store: TokenStore) -> None:
    views = set()
    for batch in take(TokenBatches(store, 4), epochs=4):
        assert batch["image"].shape == (4, 1, EMBEDDER.num_tokens, EMBEDDER.embedding_dim)
        for image, tokens in zip(batch["index"], batch["image"], strict=True):
            both = store.gather([image, image], [0, 1])
            found = [view for view in range(2) if np.array_equal(both[view], tokens[0])]
            assert len(found) == 1
            views.add(found[0])
    assert views == {0, 1}


def test_all_views_come_when_asked_for(store: TokenStore) -> None:
    batch = take(TokenBatches(store, 4, different_views=True))[0]
    for view in range(2):
        expected = store.gather(batch["index"], np.full(4, view))
        np.testing.assert_array_equal(batch["image"][:, view], expected)


@pytest.mark.parametrize("iteration", [0, 1, 2, 3, 4, 7])
def test_position_alone_says_what_comes_next(store: TokenStore, iteration: int) -> None:
    all_of_them = take(TokenBatches(store, 4), 3)
    batches = TokenBatches(store, 4)
    batches.iteration = iteration
    assert_same(take(batches), all_of_them[iteration : 3 * (iteration // 3 + 1)])


def test_ranks_share_the_batch_of_one_process(store: TokenStore) -> None:
    alone = take(TokenBatches(store, 6))
    ranks = [take(TokenBatches(store, 3, rank=rank, world_size=2)) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert whole["index"].tolist() == np.concatenate([part["index"] for part in parts]).tolist()
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))


@pytest.mark.parametrize("prefetch", [1, 2, 8])
def test_reading_ahead_changes_nothing(store: TokenStore, prefetch: int) -> None:
    ahead = TokenBatches(store, 4, prefetch=prefetch)
    assert_same(take(ahead, 2), take(TokenBatches(store, 4), 2))
    some = iter(TokenBatches(store, 4, prefetch=prefetch))
    next(some)
    some.close()  # type: ignore[attr-defined]


def test_iteration_counts_what_was_given_not_what_was_read_ahead(store: TokenStore) -> None:
    batches = TokenBatches(store, 4, prefetch=8)
    some = iter(batches)
    next(some)
    assert batches.iteration == 1
    some.close()  # type: ignore[attr-defined]


def test_error_of_the_thread_that_reads_ahead_is_raised() -> None:
    def broken() -> Any:
        yield {"index": 0}
        raise UserError("the disk is gone")

    found = read_ahead(broken(), 2)
    assert next(found) == {"index": 0}
    with pytest.raises(UserError, match="disk is gone"):
        next(found)


def test_batch_larger_than_the_data_is_refused(store: TokenStore) -> None:
    with pytest.raises(UserError, match="12 images do not fill one batch of 16; set a smaller --batch_size"):
        TokenBatches(store, 8, world_size=2)
    with pytest.raises(ValueError, match="got 1"):
        TokenBatches(store, 1)


def test_first_batch_touches_only_the_shards_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened lazily, a store of many shards gives its first batch without reading the others."""
    folder = write_export(tmp_path / "export", images=range(200), num_views=1)  # 40 shards of 5
    touched = []
    table = Export.table
    monkeypatch.setattr(Export, "table", lambda self, index: touched.append(index) or table(self, index))
    store = store_of(folder, verify="lazy")
    assert touched == []
    batch = next(iter(TokenBatches(store, 2)))
    assert sorted(touched) == sorted({int(image) // 5 for image in batch["index"]})
