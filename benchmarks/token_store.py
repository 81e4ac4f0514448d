"""How fast random batches come out of the token store, against reading sample by sample, in one process.

    python benchmarks/token_store.py --output_file docs/benchmarks/token_store.json

Every way reads the same random images with warm page cache; rounds take turns, medians are shown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measuring import machine, parser_of, ratio, report, save, spread

from msdino_monai.vault import ExportDescription, ExportWriter, TokenStore

BAR = 3.0

Batch = npt.NDArray[np.int64]
Read = Callable[[Batch], npt.NDArray[np.floating]]


def write_export(folder: Path, arguments: argparse.Namespace) -> Path:
    """An export of random tokens, as a hospital would write it."""
    description = ExportDescription(
        site_id="benchmark",
        embedder={"sha256": "0" * 64},
        num_tokens=arguments.tokens,
        embedding_dim=arguments.dim,
    )
    rng = np.random.default_rng(arguments.seed)
    tokens = rng.standard_normal((1, arguments.tokens, arguments.dim)).astype(np.float16)
    with ExportWriter(folder / "export", folder / "state", description) as writer:
        for index in range(arguments.images):
            writer.add(index.to_bytes(16, "big"), np.roll(tokens, index))
    return folder / "export"


def ways_to_read(export: Path, arguments: argparse.Namespace) -> dict[str, Read]:
    """The store, and what one would write without it."""
    store = TokenStore(export, allow_unsigned=True)
    out = np.empty((arguments.batch, arguments.tokens, arguments.dim), np.float16)
    paths = sorted((export / "shards").iterdir())
    maps = [np.load(path, mmap_mode="r") for path in paths]
    places = [(shard, row) for shard, table in enumerate(maps) for row in range(len(table))]

    def open_each(batch: Batch) -> npt.NDArray[np.floating]:
        chosen = (places[index] for index in batch)
        return np.stack([np.array(np.load(paths[shard], mmap_mode="r")[row]["tokens"][0]) for shard, row in chosen])

    def copy_each(batch: Batch) -> npt.NDArray[np.floating]:
        chosen = (places[index] for index in batch)
        return np.stack([np.array(maps[shard][row]["tokens"][0]) for shard, row in chosen])

    return {
        "per sample, file opened each time": open_each,
        "per sample, maps kept open": copy_each,
        "store.gather, fresh memory": store.gather,
        "store.gather, same memory": lambda batch: store.gather(batch, out=out),
    }


def measure(ways: dict[str, Read], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each way in every round; all ways read the same batch."""
    rng = np.random.default_rng(arguments.seed + 1)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(arguments.rounds + 2):
        batch = rng.integers(0, arguments.images, arguments.batch)
        expected = None
        for name, read in ways.items():
            start = time.perf_counter()
            tokens = read(batch)
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
            elif expected is None:
                expected = tokens.copy()
            else:
                np.testing.assert_array_equal(tokens, expected)
    return seconds


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=196)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    started_on = machine()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export = write_export(Path(folder), arguments)
        written = arguments.images / (time.perf_counter() - start)
        seconds = measure(ways_to_read(export, arguments), arguments)
    opened, kept = list(seconds.values())[:2]
    ways = {
        name: {
            "sets_per_second": spread([arguments.batch / one for one in times]),
            "over_files_opened_each_time": ratio(opened, times),
            "over_maps_kept_open": ratio(kept, times),
        }
        for name, times in seconds.items()
    }
    rows = [
        [name, *(way["sets_per_second"][key] for key in ("median", "q1", "q3")),
         way["over_files_opened_each_time"]["median"], way["over_maps_kept_open"]["median"]]
        for name, way in ways.items()
    ]  # fmt: skip
    title = f"{arguments.images} x {arguments.tokens} x {arguments.dim} float16, batch {arguments.batch} (bar {BAR})"
    report(title, ["way", "sets/s", "q1", "q3", "over opening", "over maps"], rows)
    print(f"written and committed: {written:,.0f} images/s")
    save(arguments, started_on, {"bar": BAR, "ways": ways, "written_per_second": written})


if __name__ == "__main__":
    main()
