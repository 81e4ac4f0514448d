"""Does an export tell more than shuffled tokens? Orders, values and files are held against what they should be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.order import expected_tokens
from msdino_monai.vault.manifest import MANIFEST_FILE
from msdino_monai.vault.quantise import quantise
from msdino_monai.vault.shard import SHARD_FILE, SHARD_FOLDER, encode_table

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Found = Mapping[str, Bools]  # a way to leak, and which of the images (B,) or views (R,) leak so

_MATCHES = 12  # places in common with a fresh shuffle: one is expected, twelve happen once in a billion
_DEVIATIONS = 6.5  # standard deviations from what fresh shuffles give: once in ten billion
_RARE_DEVIATIONS = 9.0  # the same of a count, whose chance falls more slowly
_MISFITS = 0.1  # share of one component's values that may be further from the truth than rounding explains
_SINGLE_PRECISION = 1e-5  # an error of sums in float32 is smaller
_LOW_BITS = 8  # where a message could hide
_FEWEST_CELLS = 8  # below, squares are too far from normal to be judged as such
_SHORTEST_NAME = 5  # letters of an identifier below which chance finds it in megabytes


def order_leaks(orders: Integers, grid: tuple[int, int]) -> tuple[Bools, list[str]]:
    """Which images' true orders (B, V, K), as written, are not fresh shuffles; and in what way.

    Views are judged one by one, and all together: a small lean in every view is a leak, too.
    """
    images, _, kept = orders.shape
    flat = orders.reshape(-1, kept)
    rows, columns = np.divmod(flat, grid[1])
    edge = np.abs(rows - (grid[0] - 1) / 2) + np.abs(columns - (grid[1] - 1) / 2)
    limit = min(_MATCHES, kept)
    traits = np.stack([flat, rows, columns, rows + columns, rows - columns, edge], -1).astype(np.float64)
    return _each_image(
        {
            "tokens lie where they were": _many((flat == np.arange(kept)).sum(1), kept / (grid[0] * grid[1]), limit),
            "tokens follow each other in equal steps": _commonest_step(flat) >= limit - 1,
            "neighbours follow each other": _adjacency(rows, columns) > _RARE_DEVIATIONS,
            "tokens lie roughly in order": _leaning(traits),
            "shuffles repeat": _repeats(flat, limit),
        },
        images,
    )


def content_leaks(tokens: Floats) -> tuple[Bools, list[str]]:
    """Which images' tokens (B, V, K, D) lie in an order that what they show decides."""
    flat = tokens.reshape(-1, *tokens.shape[2:]).astype(np.float64)
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return _each_image({"tokens lie sorted by what they show": _leaning(np.append(flat, length, -1))}, len(tokens))


def value_leaks(
    tokens: Floats, views: Floats, orders: Integers, embedder: KnownEmbedder, *, noise: float, dtype: str
) -> tuple[Bools, list[str]]:
    """Which images' tokens (B, V, K, D) are not the embedding of their views (B, V, H, W): room for a hidden message.

    With noise, whether it is as strong as the manifest says, drawn afresh for every view, and the same everywhere.
    """
    shape, grid = tokens.shape[:2], embedder.grid
    whole = np.stack([expected_tokens(view, embedder) for image in views for view in image])  # (R, N, D)
    flat, places = tokens.reshape(-1, *tokens.shape[2:]), orders.reshape(-1, orders.shape[-1])
    embedded = np.take_along_axis(whole, places[..., None], 1)
    if not noise:
        stored, scale = quantise(embedded, dtype)
        step = np.spacing(np.abs(stored)).astype(np.float32) if dtype == "float16" else scale[:, None, None]
        misfits = np.abs(flat - embedded) > 0.5 * step + _SINGLE_PRECISION
        return _each_image({"values are not what the embedding gives": misfits.mean(1).max(1) > _MISFITS}, shape[0])
    spread = noise * whole.std(axis=(1, 2), keepdims=True)
    has_noise = spread > _SINGLE_PRECISION  # a view of one grey value has none
    residual = np.where(has_noise, (flat - embedded) / np.maximum(spread, _SINGLE_PRECISION), 0)
    size = residual.std(axis=(1, 2), keepdims=True)
    residual /= np.maximum(size, 1e-9)
    stored, scale = quantise(flat, dtype)
    step = np.spacing(np.abs(stored).max((1, 2))).astype(np.float32) if dtype == "float16" else scale
    found = {
        "noise is weaker than the manifest says": (has_noise & (size < 0.8))[:, 0, 0],
        **_draws("noise", residual, places, grid),
    }
    for bit in range(_LOW_BITS):
        drawn = _bit(stored, bit) * (spread > 2 ** (bit + 1) * step[:, None, None])  # a higher one noise does not draw
        for way, which in _draws("a low bit", drawn, places, grid).items():
            found[way] = found.get(way, False) | which
    return _each_image(found, shape[0])


def _bit(stored: npt.NDArray[Any], bit: int) -> Floats:
    """One bit of every value as written, the lowest is 0: -1 or 1."""
    whole = stored.view(np.uint16 if stored.itemsize == 2 else np.uint8)
    return np.asarray(2.0 * (whole >> bit & 1) - 1, dtype=np.float32)


def _draws(name: str, drawn: npt.NDArray[np.floating[Any]], places: Integers, grid: tuple[int, int]) -> Found:
    """Ways in which what should be drawn afresh (R, K, D), of unit size, is not; K tokens lie at `places` (R, K)."""
    everywhere = np.full(len(drawn), fill_value=True)
    at_cells = np.zeros((len(drawn), grid[0] * grid[1], drawn.shape[-1]), dtype=drawn.dtype)
    np.put_along_axis(at_cells, places[..., None], drawn, 1)
    traits = np.stack([*np.divmod(places, grid[1])], -1).astype(np.float64)  # (R, K, 2)
    repeats = everywhere & (_repeated(drawn) or _repeated(at_cells))
    return {
        f"{name} repeats": repeats | _alike(drawn) | _alike(at_cells),
        f"{name} follows the place": everywhere & _follows(drawn, traits),
    }


def row_leaks(keys: Mapping[str, Sequence[Any]], written: Sequence[int] = ()) -> list[str]:
    """By which of these keys the images are sorted, as they lie in the files, and as these were `written`."""
    found = [f"images lie in the order of their {name}" for name, values in keys.items() if rows_follow(values)]
    dated = {name: [values[row] for row in written] for name, values in keys.items()}
    return found + [f"files are dated in the order of the images' {name}" for name in dated if rows_follow(dated[name])]


def rows_by_date(export_dir: Path) -> list[int]:
    """The rows of an export, shard by shard in the order of the files' dates."""
    shards = json.loads((export_dir / MANIFEST_FILE).read_text(encoding="utf-8"))["shards"]
    ends = np.cumsum([shard["images"] for shard in shards]).tolist()
    rows = [list(range(end - shard["images"], end)) for shard, end in zip(shards, ends, strict=True)]
    dates = [(export_dir / shard["file"]).stat().st_mtime_ns for shard in shards]
    return [row for _, part in sorted(zip(dates, rows, strict=True)) for row in part]


def rows_follow(values: Sequence[Any]) -> bool:
    """Whether values, in the order in which their images lie in the files, rise or fall."""
    count = len(values)
    if count < 8 or len(set(values)) < 8:
        return False
    ranks = np.unique(np.array(values), return_inverse=True)[1].astype(np.float64)
    correlation = abs(float(np.corrcoef(ranks, np.arange(count))[0, 1]))
    return correlation > 0.999 or correlation * (count - 1) ** 0.5 > 5


def file_leaks(
    export_dir: Path, opened_dir: Path, identifiers: Iterable[str], details: Mapping[str, Any] | None = None
) -> list[str]:
    """What the files of an export hold beyond a manifest and tokens.

    `opened_dir` holds the unsealed shards, `details` what is sealed inside the manifest.
    """
    found = []
    for path in (path for path in export_dir.rglob("*") if path.is_file()):
        is_shard = path.parent.name == SHARD_FOLDER and SHARD_FILE.fullmatch(path.name)
        if not is_shard and path != export_dir / MANIFEST_FILE:
            found.append("the folder holds a file that is no shard")
    shards = []
    for path in sorted(opened_dir.rglob("*.npy")):
        table, data = np.load(path, mmap_mode="r", allow_pickle=False), path.read_bytes()
        if data != encode_table(table):
            found.append("a shard holds more than its tokens")
        shards.append(data[table.offset :])  # NumPy's own header says "image" and "tokens", as files may be called
    wanted = {word for word in identifiers if len(word) >= _SHORTEST_NAME}
    manifest = json.loads((export_dir / MANIFEST_FILE).read_text(encoding="utf-8"))
    told = [*_texts(_without_hashes(manifest)), *_texts(_without_hashes(details or {}))]
    if any(_names(word, told) or any(os.fsencode(word) in shard for shard in shards) for word in wanted):
        found.append("a file name or patient number stands in the files")
    return sorted(set(found))


def _without_hashes(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, but for what chance writes, in which numbers may stand: hashes, random names, ciphertext.

    Its own words (`dtype`, `site_id`) tell of no image either.
    """
    random = {"embedder_sha256", "signature", "dtype", "site_id", "counts"}
    if isinstance(told.get("details"), str):
        random.add("details")
    rest = {name: value for name, value in told.items() if name not in random}
    rest["shards"] = [
        {name: value for name, value in shard.items() if name not in {"file", "bytes", "sha256"}}
        for shard in rest.get("shards", ())
    ]
    for place in (rest, rest.get("details", {})):
        if isinstance(place.get("embedder"), Mapping):
            place["embedder"] = {name: value for name, value in place["embedder"].items() if name != "sha256"}
    return rest


def _texts(told: Any) -> Iterator[tuple[str, bool]]:
    """Every text in JSON, and whether it is the name of something."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            yield name, True
            yield from _texts(value)
    elif isinstance(told, list):
        for value in told:
            yield from _texts(value)
    else:
        yield str(told), False


def _names(identifier: str, told: Iterable[tuple[str, bool]]) -> bool:
    """Whether somebody reads it in one of these texts, not as a part of a longer word.

    Among names of settings a plain word proves nothing: somebody's file may be called "image".
    """
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(identifier)}(?![A-Za-z0-9])")
    is_plain = re.fullmatch("[a-z_]+", identifier) is not None
    return any(whole.search(text) for text, is_name in told if not (is_name and is_plain))


def _each_image(found: Found, images: int) -> tuple[Bools, list[str]]:
    """Views (R,) of images (B,), in order, to images; and the ways that were found."""
    leaking = np.any(list(found.values()), axis=0).reshape(images, -1).any(1)
    return leaking, [name for name, which in found.items() if which.any()]


def _many(counts: npt.NDArray[np.integer[Any]], expected: float, limit: int) -> Bools:
    """Which counts (R,) are too large, or all of them if their sum is."""
    total = len(counts) * expected
    too_many = counts.sum() - total > _RARE_DEVIATIONS * max(total, 1) ** 0.5
    return np.asarray((counts >= limit) | too_many)


def _leaning(traits: npt.NDArray[np.float64]) -> Bools:
    """Which views' traits (R, K, T) rise or fall with the place in the file; all views, if they do so together.

    A fresh shuffle pairs any values with places at random: the correlation has deviation 1 / sqrt(K - 1).
    """
    kept = traits.shape[1]
    place = np.arange(kept) - (kept - 1) / 2
    centred = traits - traits.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(place)
    deviations = np.einsum("k,rkt->rt", place, centred) / np.maximum(norms, 1e-9) * (kept - 1) ** 0.5
    together = np.abs(deviations.sum(0)).max() / len(traits) ** 0.5 > _DEVIATIONS
    return np.asarray((np.abs(deviations).max(1) > _DEVIATIONS) | together)


def _commonest_step(flat: Integers) -> Integers:
    """How often each order's (R, K) commonest step from one cell to the next is taken."""
    steps = np.diff(flat, axis=1)
    return np.array([np.unique(row, return_counts=True)[1].max(initial=0) for row in steps], dtype=np.int64)


def _adjacency(rows: Integers, columns: Integers) -> npt.NDArray[np.float64]:
    """Of each order (R, K): how many tokens are followed by one that touches them, in deviations from chance."""
    found = []
    for row, column in zip(rows, columns, strict=True):
        apart = np.maximum(np.abs(row[:, None] - row), np.abs(column[:, None] - column))
        share = (apart == 1).sum() / max(1, apart.size - len(apart))
        expected = share * (len(row) - 1)
        followed = (np.diagonal(apart, 1) == 1).sum()
        found.append((followed - expected) / max(expected * (1 - share), 1) ** 0.5)
    return np.array(found)


def _repeats(flat: Integers, limit: int) -> Bools:
    """Which orders (R, K) share too many places with another one."""
    shared = np.array([(flat == order).sum(1) for order in flat])  # (R, R)
    np.fill_diagonal(shared, 0)
    return np.asarray((shared >= limit).any(1))


def _repeated(drawn: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether noise (R, K, D) of unit size is alike in all views, in all components or in one.

    Its mean over them is then larger than 1 / R.
    """
    views = (drawn != 0).any(2).sum(0)  # (K,): how many views fill the place
    known = views > 1
    if len(drawn) < 3 or known.sum() < _FEWEST_CELLS:
        return False
    excess = drawn.sum(0)[known] ** 2 / views[known, None] - 1  # about chi-squared, less its mean
    by_component = excess.sum(0) / (2 * len(excess)) ** 0.5
    together = excess.sum() / (2 * excess.size) ** 0.5
    return bool(max(by_component.max(), together) > _RARE_DEVIATIONS)


def _alike(drawn: npt.NDArray[np.floating[Any]]) -> Bools:
    """Which views' noise (R, K, D) of unit size is like another view's, as it is where the image decides it."""
    flat = drawn.reshape(len(drawn), -1)
    known = (flat != 0).astype(np.float32)
    deviations = np.abs(flat @ flat.T) / np.sqrt(np.maximum(known @ known.T, 1))
    np.fill_diagonal(deviations, 0)
    return np.asarray(deviations.max(1, initial=0) > _DEVIATIONS)


def _follows(residual: npt.NDArray[np.floating[Any]], traits: npt.NDArray[np.float64]) -> bool:
    """Whether noise (R, K, D) leans with traits of the place (R, K, T), all views taken together."""
    centred = traits - traits.mean(1, keepdims=True)
    leaning = np.einsum("rkt,rkd->td", centred, residual)
    return bool((np.abs(leaning) / np.linalg.norm(centred, axis=(0, 1))[:, None]).max() > _DEVIATIONS)
