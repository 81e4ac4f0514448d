from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import (
    AlreadyExistsError,
    DiskFullError,
    Lock,
    hash_file,
    make_private_folder,
    write_file,
)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_private_files_and_folders_are_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private_folder(tmp_path / "private")
        write_file(tmp_path / "private" / "secret", b"secret", private=True)
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "private" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_private_from_its_creation_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    write = os.write

    def watched(descriptor: int, data: bytes) -> int:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    write_file(tmp_path / "secret", b"secret", private=True)
    assert modes == [0o600]


def test_a_filled_folder_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    (folder / "file").touch()
    with pytest.raises(UserError, match="chmod 700"):
        make_private_folder(folder)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_file(path, b"old", replace=False)
    with pytest.raises(AlreadyExistsError, match="key exists"):
        write_file(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:5])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(DiskFullError, match=r"disk full while writing .*file; free space and run the same command"):
        write_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="is a link"):
        hash_file(tmp_path / "link")


def test_a_lock_is_exclusive_until_closed(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(UserError, match="busy here"):
        Lock(tmp_path, busy="busy here")
    Lock(tmp_path).close()


def test_a_forked_worker_that_outlives_a_killed_run_does_not_hold_its_lock(tmp_path: Path) -> None:
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    lock = Lock(tmp_path)
    child = os.fork()
    if child == 0:
        os.write(to_parent, b".")
        os.read(from_parent, 1)  # lives until the parent is done
        os._exit(0)
    try:
        os.read(from_child, 1)
        with pytest.raises(UserError):
            Lock(tmp_path)
        os.close(lock._descriptor)  # what the kernel does to a killed run
        lock._descriptor = -1
        Lock(tmp_path).close()
    finally:
        os.write(to_child, b".")
        os.waitpid(child, 0)
        for descriptor in (from_child, to_parent, from_parent, to_child):
            os.close(descriptor)
