"""A shard: one .npy file, one record per image (its salted id, the scale of each view, its shuffled tokens)."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError
from msdino_monai.vault.quantise import DTYPES

SHARD_FOLDER = "shards"
SHARD_FILE = re.compile(r"[0-9a-f]{16}\.npy(\.age)?")

Table = npt.NDArray[np.void]


def record_dtype(num_views: int, kept_tokens: int, embedding_dim: int, dtype: str) -> np.dtype[np.void]:
    """One image: 16 bytes of id, V scales, (V, K, D) tokens, nothing else."""
    return np.dtype(
        [
            ("image", "V16"),
            ("scale", "<f4", (num_views,)),
            ("tokens", DTYPES[dtype], (num_views, kept_tokens, embedding_dim)),
        ]
    )


def random_rows(count: int) -> npt.NDArray[np.int64]:
    """A secret order of rows, so that a shard does not tell the order of the hospital's files."""
    return np.argsort(np.frombuffer(os.urandom(8 * count), dtype=np.uint64), kind="stable")


def encode_table(table: Table) -> bytes:
    """The bytes of the .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, table, allow_pickle=False)
    return buffer.getvalue()


def decode_table(source: bytes | Path, expected: np.dtype[np.void], count: int, name: Path) -> Table:
    """A table from bytes, or memory-mapped from a file; its header must say what the manifest says."""
    try:
        if isinstance(source, bytes):
            table: npt.NDArray[Any] = np.load(io.BytesIO(source), allow_pickle=False)
        else:
            table = np.load(source, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{name} is not a whole .npy file; ask the site to send it again.") from error
    if table.dtype != expected or table.shape != (count,):
        raise UserError(
            f"{name} holds {table.shape} records of {table.dtype.itemsize} bytes, the manifest says {(count,)} of "
            f"{expected.itemsize}; ask the site to send it again."
        )
    return table.view(np.ndarray)
