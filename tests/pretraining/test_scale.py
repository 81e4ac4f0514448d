from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pretraining_runs import (
    EMBEDDER,
    assert_same,
    begin,
    checkpoints_of,
    curves,
    store_of,
    student_weights,
    train,
    weights,
)

from msdino_monai.pretraining import TokenBatches
from msdino_monai.pretraining import curves as curves_module
from msdino_monai.vault import ExportDescription, atomic
from msdino_monai.vault.export import Export
from msdino_monai.vault.manifest import Manifest, ShardEntry

pytestmark = pytest.mark.usefixtures("_without_picture")

ALL_REDUCED: dict[str, Any] = {"drop_path_rate": 0.0, "token_weight": 0.5, "koleo_weight": 0.1, "learning_rate": 0.002}


def as_rank(
    number: int, port: int, stop_at: int | None, export: str, output_dir: str, settings: dict[str, Any]
) -> None:
    """One of torchrun's two processes. Rank 1 dies if it writes; it alone is asked to stop."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    curves_module.as_picture = lambda _: b"not drawn"  # type: ignore[assignment]
    if number == 1:
        atomic._write_durably = _refuse
    flow, trainer = begin(Path(export), Path(output_dir), **settings)
    if number == 1 and stop_at is not None:
        from ignite.engine import Events

        ask = checkpoints_of(flow).ask_to_stop
        trainer.add_event_handler(Events.ITERATION_STARTED(once=stop_at), lambda _: ask())
    try:
        flow.run()
    except KeyboardInterrupt:
        assert stop_at is not None
    flow.finalize()


def _refuse(path: Path, *_: object) -> None:
    raise AssertionError(f"rank 1 writes {path}")


def train_on_ranks(export: Path, output_dir: Path, stop_at: int | None = None, **settings: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai.bundle", "msdino_monai.pretraining"])
    given = (port, stop_at, str(export), str(output_dir), settings)
    children = [context.Process(target=as_rank, args=(number, *given)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(180)
    assert [child.exitcode for child in children] == [0, 0]


def assert_near(one: Path, other: Path) -> None:
    """Apart from attention's key biases, whose gradients are rounding alone and which change no feature."""
    for row, expected in zip(curves(one), curves(other), strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            assert float(value) == pytest.approx(float(expected[name]), rel=2e-3, abs=1e-4), name
    for found, wanted in ((weights(one), weights(other)), (student_weights(one), student_weights(other))):
        for name, tensor in found.items():
            if not name.endswith("qkv.bias"):
                torch.testing.assert_close(tensor, wanted[name], atol=2e-4, rtol=1e-2, msg=name)


@pytest.mark.parametrize("targets", ["sinkhorn", "centring"])
def test_two_ranks_train_as_one_process_with_the_whole_batch(targets: str, export: Path, tmp_path: Path) -> None:
    """One iteration an epoch, so that each row of the curves is one iteration's loss."""
    settings = {**ALL_REDUCED, "targets": targets}
    train(export, tmp_path / "alone", batch_size=12, **settings)
    train_on_ranks(export, tmp_path / "ranks", batch_size=6, **settings)
    assert_near(tmp_path / "ranks", tmp_path / "alone")
    assert len(list((tmp_path / "ranks" / "tensorboard").iterdir())) == 1


def test_ranks_stop_together_and_go_on_bit_for_bit(export: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 2, "token_weight": 0.5, "checkpoint_every_iterations": 2}
    train_on_ranks(export, tmp_path / "undisturbed", **settings)
    train_on_ranks(export, tmp_path / "out", stop_at=5, **settings)
    assert not (tmp_path / "out" / "models").exists()
    assert (tmp_path / "out" / "checkpoints" / "checkpoint_00000005.pt").exists()
    train_on_ranks(export, tmp_path / "out", **settings)
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "undisturbed"))
    assert_same(student_weights(tmp_path / "out"), student_weights(tmp_path / "undisturbed"))
    assert curves(tmp_path / "out") == curves(tmp_path / "undisturbed")


def write_hollow_export(folder: Path, images: int, images_per_shard: int) -> int:
    """An export of empty tokens in files without blocks on the disk; returns the bytes it pretends to hold."""
    description = ExportDescription("hospital_a", EMBEDDER.describe(), num_tokens=196, embedding_dim=128)
    record = description.layout.record
    (folder / "shards").mkdir(parents=True)
    first = folder / "shards" / f"{0:016x}.npy"
    np.lib.format.open_memmap(first, "w+", record, (images_per_shard,))
    size, digest = first.stat().st_size, hashlib.sha256(first.read_bytes()).hexdigest()
    header = first.read_bytes()[: size - images_per_shard * record.itemsize]
    shards = []
    for number in range(images // images_per_shard):
        path = folder / "shards" / f"{number:016x}.npy"
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)
        shards.append(ShardEntry(f"shards/{path.name}", size, digest, images_per_shard))
    details = {"embedder": description.embedder, "options": {}}
    empty = Manifest("hospital_a", description.layout, sealed=False, details=details, tools={})
    (folder / "manifest.json").write_bytes(empty.with_shards(tuple(shards)).encode())
    return size * len(shards)


def test_first_batch_of_a_million_images_reads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = write_hollow_export(tmp_path / "export", images=1_000_000, images_per_shard=250)
    assert payload > 50e9
    touched, table = list[int](), Export.table
    monkeypatch.setattr(Export, "table", lambda self, index: touched.append(index) or table(self, index))
    process = psutil.Process()
    before = process.memory_info().rss
    store = store_of(tmp_path / "export", verify="lazy")
    batch = next(iter(TokenBatches(store, 8)))
    grown = process.memory_info().rss - before
    assert len(store) == 1_000_000
    assert batch["image"].shape == (8, 1, 196, 128)
    assert sorted(set(touched)) == sorted({int(image) // 250 for image in batch["index"]})
    assert grown < 400e6
