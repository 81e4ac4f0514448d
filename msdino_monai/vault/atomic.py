"""Files that are either whole or absent, and locks that die with their process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msdino_monai.errors import UserError

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.EBADF, errno.ENOTSUP, errno.ENOLCK}


class DiskFullError(UserError):
    """There was no room for a file; nothing half-written is left of it."""


class AlreadyExistsError(UserError):
    """A file that must not be overwritten."""


@contextmanager
def explained(path: Path, action: str = "write") -> Iterator[None]:
    """Turn the operating system's refusal into one line that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"disk full while writing {path}; free space and run the same command again: finished images are kept."
            ) from error
        raise UserError(f"cannot {action} {path}: {error.strerror}; check the path and its permissions.") from error


def write_file(path: Path, data: bytes, *, private: bool = False, replace: bool = True) -> None:
    """Write a whole file durably: temporary file, fsync, rename, fsync of the folder.

    `private` makes it 0600 from its creation on, whatever the umask; `replace=False` never overwrites.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with explained(path):
        try:
            _write_durably(temporary, data, private)
            if replace:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)
        except FileExistsError:
            raise AlreadyExistsError(f"{path} exists and is not overwritten; choose another name.") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def _write_durably(path: Path, data: bytes, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600 if private else 0o666)
    try:
        if private:
            os.fchmod(descriptor, 0o600)  # a umask may take even the owner's bits away
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files(paths: list[Path]) -> None:
    """Remove files, absent ones included, durably."""
    for path in paths:
        with explained(path, "remove"):
            path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        if folder.is_dir():
            sync_folder(folder)


def make_folder(path: Path) -> None:
    with explained(path, "create"):
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Create a folder only its owner may enter (0700); refuse a filled one that others may enter."""
    with explained(path, "create"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise UserError(f"{path} is not a folder; name another one.") from None
            if path.stat().st_mode & 0o077 == 0:
                return
            if any(path.iterdir()):
                raise UserError(f"{path} may be read by others; run `chmod 700 {path}` or name a new folder.") from None
        path.chmod(0o700)
        sync_folder(path.parent)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file, links refused."""
    with _opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def hash_file(path: Path) -> str:
    """The sha256 of a regular file, links refused."""
    with _opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with explained(path, "read"):
        if path.is_symlink() or not path.is_file():
            state = "is a link or no plain file" if path.is_symlink() or path.exists() else "is missing"
            raise UserError(f"{path} {state}; copy the original file there.")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class Lock:
    """An exclusive lock on a folder, or on a file made for it; the kernel frees it when the process dies."""

    def __init__(self, path: Path, *, wait: bool = False, busy: str = "") -> None:
        self._owner = os.getpid()
        flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with explained(path, "lock"):
            self._descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                self.close()
                raise UserError(busy or f"{path} is in use by another process; wait until it ends.") from None
            except OSError as error:
                # Network file systems cannot lock a folder; there the state folder's own lock must do.
                if not (path.is_dir() and error.errno in _NO_LOCKS):
                    self.close()
                    raise
        _held.add(self)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if os.getpid() == self._owner:  # a fork must not free what its parent holds
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked loader worker that outlives a killed run must not keep its lock."""
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_let_go_in_child)
