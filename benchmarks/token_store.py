"""How fast random batches come out of the token store, against reading sample by sample, in one process.

    python benchmarks/token_store.py --output token_store.json

Every way reads the same random images with warm page cache; rounds take turns, medians are shown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from msdino_monai.vault import ExportDescription, ExportWriter, TokenStore

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
    tokens = np.random.default_rng(0).standard_normal((1, arguments.tokens, arguments.dim)).astype(np.float16)
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


def measure(ways: dict[str, Read], arguments: argparse.Namespace) -> dict[str, float]:
    """Token sets per second of each way."""
    rng = np.random.default_rng(1)
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
    return {name: arguments.batch / median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=196)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export = write_export(Path(folder), arguments)
        written = arguments.images / (time.perf_counter() - start)
        rates = measure(ways_to_read(export, arguments), arguments)
    slowest = next(iter(rates.values()))
    print(f"{arguments.images} x {arguments.tokens} x {arguments.dim} float16, batch {arguments.batch}")
    print(f"{'way':<36}{'sets/s':>10}{'ratio':>8}")
    for name, rate in rates.items():
        print(f"{name:<36}{rate:>10,.0f}{rate / slowest:>8.2f}")
    print(f"{'written and committed (images/s)':<36}{written:>10,.0f}")
    if arguments.output:
        settings = {key: value for key, value in vars(arguments).items() if key != "output"}
        result = {"settings": settings, "sets_per_second": rates, "written_per_second": written}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
