"""What an export must not tell: sabotage that the audit has to notice, and honest exports that it must not accuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from msdino_monai.networks import PatchEmbedding
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.leak import (
    content_leaks,
    file_leaks,
    order_leaks,
    row_leaks,
    rows_by_date,
    rows_follow,
    value_leaks,
)
from msdino_monai.privacy.order import expected_tokens
from msdino_monai.vault.quantise import quantise
from msdino_monai.vault.shard import encode_table, record_dtype

GRID = (14, 14)
CELLS = np.arange(196)


def shuffles(images: int = 20, kept: int = 196) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.stack([[generator.permutation(196)[:kept] for _ in range(2)] for _ in range(images)])


@pytest.mark.parametrize("kept", [196, 98])
def test_fresh_shuffles_are_no_leak(kept: int) -> None:
    orders = shuffles(60, kept)
    leaking, ways = order_leaks(orders, GRID)
    assert not leaking.any()
    assert ways == []
    orders[3, 1] = orders[40, 0]
    assert order_leaks(orders, GRID)[0].nonzero()[0].tolist() == [3, 40]


def turned_columns(generator: np.random.Generator) -> np.ndarray:
    """Column by column, begun anywhere."""
    return np.roll(CELLS.reshape(GRID).T.ravel(), generator.integers(196))


def halves(generator: np.random.Generator) -> np.ndarray:
    return np.concatenate([generator.permutation(98), 98 + generator.permutation(98)])


def squares(generator: np.random.Generator) -> np.ndarray:
    """Squares of four patches stay together."""
    return generator.permutation(CELLS.reshape(7, 2, 7, 2).swapaxes(1, 2).reshape(49, 4)).ravel()


def mostly_fresh(generator: np.random.Generator) -> np.ndarray:
    """Seven tokens of 196 stay where they are: too few to be seen in one view."""
    order, still = CELLS.copy(), generator.choice(196, 7, replace=False)
    others = np.setdiff1d(CELLS, still)
    order[others] = generator.permutation(others)
    return order


@pytest.mark.parametrize(
    ("draw", "way"),
    [
        (turned_columns, "tokens follow each other in equal steps"),
        (halves, "tokens lie roughly in order"),
        (squares, "neighbours follow each other"),
        (mostly_fresh, "tokens lie where they were"),
    ],
)
def test_shuffle_that_keeps_some_order_is_noticed(draw: Callable[[np.random.Generator], np.ndarray], way: str) -> None:
    generator = np.random.default_rng(1)
    leaking, ways = order_leaks(np.stack([[draw(generator)] for _ in range(20)]), GRID)
    assert leaking.all()
    assert way in ways


def test_tokens_sorted_by_brightness_are_noticed() -> None:
    tokens = np.random.default_rng(2).standard_normal((5, 1, 196, 16)).astype(np.float32)
    assert content_leaks(tokens) == (pytest.approx(np.zeros(5)), [])
    places = np.argsort(tokens[..., 3], axis=-1)
    leaking, ways = content_leaks(np.take_along_axis(tokens, places[..., None], 2))
    assert leaking.all()
    assert ways == ["tokens lie sorted by what they show"]


@pytest.fixture
def written(auxiliary: torch.Tensor) -> Callable[..., tuple[np.ndarray, list[str]]]:
    """Tokens as an export writes them, changed by a bug, and what is noticed."""
    embedder = KnownEmbedder.of(PatchEmbedding(64, 8, 24, 1))
    views = auxiliary[:6].numpy()
    generator = np.random.default_rng(3)
    orders = np.stack([[generator.permutation(64)] for _ in views])
    whole = np.stack([[expected_tokens(view, embedder) for view in image] for image in views])
    tokens = np.take_along_axis(whole, orders[..., None], 2).astype(np.float32)

    def look(
        bug: Callable[[np.ndarray, np.ndarray], np.ndarray], noise: float = 0.0, dtype: str = "float16"
    ) -> tuple[np.ndarray, list[str]]:
        stored, scale = quantise(bug(tokens[:, 0], orders[:, 0]), dtype)
        opened = (stored.astype(np.float32) * scale[:, None, None])[:, None]
        return value_leaks(opened, views, orders, embedder, noise=noise, dtype=dtype)

    return look


def noisy(tokens: np.ndarray, _: np.ndarray, size: float = 0.1) -> np.ndarray:
    spread = size * tokens.std(axis=(1, 2), keepdims=True)
    return tokens + spread * np.random.default_rng(4).standard_normal(tokens.shape)


def alike(tokens: np.ndarray, _: np.ndarray) -> np.ndarray:
    spread = 0.1 * tokens.std(axis=(1, 2), keepdims=True)
    return tokens + spread * np.random.default_rng(5).standard_normal(tokens.shape[1:])


def marked(tokens: np.ndarray, orders: np.ndarray, bit: int = 0) -> np.ndarray:
    """The place stands in a low bit of one component."""
    halves = np.ascontiguousarray(tokens.astype(np.float16)).view(np.uint16)
    halves[..., 2] = (halves[..., 2] & ~np.uint16(1 << bit)) | ((orders & 1) << bit).astype(np.uint16)
    return halves.view(np.float16).astype(np.float32)


def noise_of_the_image(tokens: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The second half of the views shows the images of the first; noise is drawn by the image, cell by cell."""
    spread = 0.1 * tokens.std(axis=(1, 2), keepdims=True)
    drawn = np.random.default_rng(6).standard_normal((len(tokens) // 2, *tokens.shape[1:]))
    at_cells = np.concatenate([drawn, drawn])
    return tokens + spread * np.take_along_axis(at_cells, orders[..., None], 1)


def test_honest_values_are_no_leak(written: Callable[..., tuple[np.ndarray, list[str]]]) -> None:
    for dtype in ("float16", "int8"):
        assert written(lambda tokens, _: tokens, dtype=dtype)[1] == []
        assert written(noisy, noise=0.1, dtype=dtype)[1] == []


def test_place_hidden_in_the_last_bit_is_noticed(written: Callable[..., tuple[np.ndarray, list[str]]]) -> None:
    leaking, ways = written(marked)
    assert leaking.all()
    assert ways == ["values are not what the embedding gives"]


def test_noise_that_is_missing_or_the_same_in_all_images_is_noticed(
    written: Callable[..., tuple[np.ndarray, list[str]]],
) -> None:
    assert "noise is weaker than the manifest says" in written(lambda tokens, _: tokens, noise=0.1)[1]
    assert "noise repeats" in written(alike, noise=0.1)[1]


def test_noise_that_the_image_decides_is_noticed(written: Callable[..., tuple[np.ndarray, list[str]]]) -> None:
    leaking, ways = written(noise_of_the_image, noise=0.1)
    assert leaking.all()
    assert ways == ["noise repeats"]


@pytest.mark.parametrize("bit", [0, 1, 2, 3])
def test_place_hidden_in_a_low_bit_under_noise_is_noticed(
    written: Callable[..., tuple[np.ndarray, list[str]]], bit: int
) -> None:
    leaking, ways = written(lambda tokens, orders: marked(noisy(tokens, orders), orders, bit), noise=0.1)
    assert leaking.all()
    assert "a low bit repeats" in ways


def test_rows_in_the_order_of_their_names_are_seen() -> None:
    names = [f"{number:03d}.dcm" for number in range(40)]
    assert row_leaks({"names": names, "dates": [""] * 40}) == ["images lie in the order of their names"]
    assert rows_follow(names[::-1])
    assert not rows_follow(np.random.default_rng(0).permutation(names).tolist())


def test_files_dated_in_the_order_of_the_images_are_seen(tmp_path: Path) -> None:
    """The manifest names shards in random order; the files' dates say in which they were written."""
    (tmp_path / "shards").mkdir()
    order = np.random.default_rng(0).permutation(10).tolist()
    shards = [{"file": f"shards/{number}.npy", "images": 4} for number in order]
    for number in range(10):
        path = tmp_path / "shards" / f"{number}.npy"
        path.touch()
        os.utime(path, ns=(0, 1000 * number))
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": shards}))
    names = [f"{4 * number + image:03d}.dcm" for number in order for image in range(4)]
    written = rows_by_date(tmp_path)
    assert [names[row] for row in written] == sorted(names)
    assert row_leaks({"names": names}) == []
    assert row_leaks({"names": names}, written) == ["files are dated in the order of the images' names"]


@pytest.mark.parametrize(
    ("identifier", "details", "is_found"),
    [
        ("image", {"options": {"img_size": 224, "images": 1, "image": "zeros"}}, False),  # <patient>/image.dcm
        ("12345", {"embedder": {"sha256": "12345"}, "num": 1234567}, False),
        ("12345", {"options": {"study": 12345}}, True),
        ("SYN-A-0005", {"options": {"augment": [{"name": "for SYN-A-0005."}]}}, True),
        ("A00017", {"options": {"A00017": 1}}, True),
        ("SYN-A-0005", {"options": {"source": "/data/SYN-A-0005_frontal.png"}}, True),
        ("Anna Smith", {"options": {"note": "of Anna Smith."}}, True),
        ("doe^jane", {"options": {"doe^jane": 1}}, True),
        ("SYN-A-0005", {"options": {"file": "SYN-A-0005"}}, True),
        ("hospital_a", {"options": {"note": "none"}}, False),
        ("float16", {"options": {"note": "none"}}, False),
    ],
)
def test_identifiers_are_looked_for_as_whole_words_and_not_in_hashes(
    tmp_path: Path, identifier: str, details: dict[str, object], is_found: bool
) -> None:
    manifest = {"signature": {"value": "a 12345 b"}, "site_id": "hospital_a", "dtype": "float16"}
    manifest |= {"sealed": True, "details": "A00017", "shards": [{"file": "image", "sha256": "image", "images": 3}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert bool(file_leaks(tmp_path, tmp_path / "none", [identifier], details)) is is_found


def test_files_that_hold_more_than_tokens_are_noticed(tmp_path: Path) -> None:
    export, opened = tmp_path / "export", tmp_path / "opened"
    (export / "shards").mkdir(parents=True)
    opened.mkdir()
    (export / "manifest.json").write_text("{}")
    (export / "shards" / "0123456789abcdef.npy.age").write_bytes(b"sealed")
    np.save(opened / "a.npy", np.zeros(3))
    assert file_leaks(export, opened, ["patient-17", "a"]) == []
    assert file_leaks(export, opened, ["patient-17"], {"options": {"note": "of patient-17 and others"}}) == [
        "a file name or patient number stands in the files"
    ]
    with (opened / "a.npy").open("ab") as file:
        file.write(b"patient-17")
    (export / "notes.txt").touch()
    assert file_leaks(export, opened, ["patient-17"]) == [
        "a file name or patient number stands in the files",
        "a shard holds more than its tokens",
        "the folder holds a file that is no shard",
    ]


def test_words_of_a_shards_own_header_accuse_nobody(tmp_path: Path) -> None:
    """Files may be called image.dcm and tokens.dcm; what is hidden in the header is found all the same."""
    export, opened = tmp_path / "export", tmp_path / "opened"
    export.mkdir()
    opened.mkdir()
    (export / "manifest.json").write_text("{}")
    written = encode_table(np.zeros(2, record_dtype(1, 4, 8, "float16")))
    (opened / "a.npy").write_bytes(written)
    assert file_leaks(export, opened, ["image", "scale", "tokens", "shape", "descr", "fortran_order"]) == []
    (opened / "a.npy").write_bytes(written.replace(b"}           ", b"} #patient17", 1))
    assert file_leaks(export, opened, []) == ["a shard holds more than its tokens"]


@pytest.mark.parametrize(("hidden", "is_found"), [(b"of M\xfcller", True), (b"of Mueller", False)])
def test_name_that_is_not_utf8_is_looked_for(tmp_path: Path, hidden: bytes, is_found: bool) -> None:
    export, opened = tmp_path / "export", tmp_path / "opened"
    export.mkdir()
    opened.mkdir()
    (export / "manifest.json").write_text("{}")
    np.save(opened / "a.npy", np.frombuffer(hidden, np.uint8))
    assert bool(file_leaks(export, opened, [os.fsdecode(b"M\xfcller")])) is is_found
