"""The order of writes that survives a power cut, and disks that fill."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from vault_hospital import Hospital, hashes, views_of

from msdino_monai.vault import DiskFullError, TokenStore

OpenStore = Callable[..., TokenStore]
AssertComplete = Callable[..., None]


def test_each_file_is_durable_before_the_next_step(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power cut: note, shard, manifest, each with file and folder synced."""
    events: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        sync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        events.append(("rename", f"{path} {target}"))
        return replace(path, target)

    with hospital.writer() as writer:
        writer.add(b"i" * 16, views_of(0))
        monkeypatch.setattr(os, "fsync", watched_sync)
        monkeypatch.setattr(Path, "replace", watched_replace)
        writer.flush()
        monkeypatch.undo()
    (shard,) = hospital.shards()
    targets = [
        hospital.state_dir / "shards" / f"{shard.stem}.json",
        shard,
        hospital.output_dir / "manifest.json",
    ]
    expected = []
    renames = [what for kind, what in events if kind == "rename"]
    for rename, target in zip(renames, targets, strict=True):
        temporary = rename.split()[0]
        assert Path(temporary).parent == target.parent
        expected += [("sync", temporary), ("rename", f"{temporary} {target}"), ("sync", str(target.parent))]
    assert events == expected


def test_a_disk_that_fills_at_any_write_loses_nothing(
    hospital: Hospital,
    open_plain: OpenStore,
    assert_complete: AssertComplete,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, left = os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        return write(descriptor, data)

    for room in range(15):  # a new folder takes 4 writes, each shard 3
        acknowledged = hashes(hospital.output_dir / "shards")
        monkeypatch.setattr(os, "write", full)
        left = room
        with pytest.raises(DiskFullError, match="free space and run the same command again"):
            hospital.run(range(200))
        monkeypatch.setattr(os, "write", write)
        everything = [*hospital.output_dir.rglob("*"), *hospital.state_dir.rglob("*")]
        assert not [path for path in everything if path.suffix == ".tmp"]
        assert acknowledged.items() <= hashes(hospital.output_dir / "shards").items()
        assert hospital.run(range(room * 2)).damaged == ()
    hospital.run(range(200))
    assert_complete(open_plain(hospital.output_dir), hospital, range(200))


def test_a_full_disk_can_be_freed_while_the_run_goes_on(
    hospital: Hospital,
    open_plain: OpenStore,
    assert_complete: AssertComplete,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hospital.writer() as writer:
        for index in range(3):
            writer.add(hospital.image_id(index), views_of(index))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(DiskFullError):
                writer.add(hospital.image_id(3), views_of(3))
        writer.add(hospital.image_id(4), views_of(4))
    assert_complete(open_plain(hospital.output_dir), hospital, range(5))
