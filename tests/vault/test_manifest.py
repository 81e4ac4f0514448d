from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vault_hospital import EMBEDDER, Hospital, Keys, describe

from msdino_monai.vault.manifest import (
    Manifest,
    ManifestError,
    ShardEntry,
    _readable,
    _with_checksum,
    decode_manifest,
)
from msdino_monai.vault.signing import read_signing_key

SOURCE = Path("manifest.json")


def manifest() -> Manifest:
    description = describe()
    details = {"embedder": description.embedder, "options": description.options}
    entry = ShardEntry("shards/0123456789abcdef.npy", 512, "0" * 64, 3)
    return Manifest("hospital_a", description.layout, False, details, {"numpy": "2"}).with_shards((entry,))


def forge(**changes: Any) -> bytes:
    """A manifest with a correct checksum that a stranger could have written."""
    return _readable(_with_checksum({**json.loads(manifest().encode()), **changes}))


def shard(**changes: Any) -> list[dict[str, Any]]:
    return [{"file": "shards/0123456789abcdef.npy", "bytes": 512, "sha256": "0" * 64, "images": 3, **changes}]


def test_what_is_written_is_what_is_read(keys: Keys) -> None:
    key = read_signing_key(keys.signing_key)
    data = manifest().signed(key).encode()
    decoded = decode_manifest(data, SOURCE)
    assert decoded.content() == manifest().content()
    assert decoded.signed_by(key.public)
    assert manifest().signed(key).encode() == data


def test_a_signature_binds_the_site(keys: Keys) -> None:
    key = read_signing_key(keys.signing_key)
    stored = json.loads(manifest().signed(key).encode())
    other = decode_manifest(_readable(_with_checksum({**stored, "site_id": "hospital_b"})), SOURCE)
    assert not other.signed_by(key.public)


@pytest.mark.parametrize("signed", [True, False])
def test_every_flipped_byte_and_every_cut_is_caught(keys: Keys, signed: bool) -> None:
    data = manifest().signed(read_signing_key(keys.signing_key) if signed else None).encode()
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for damaged in (flipped, data[:place]):
            with pytest.raises(ManifestError):
                decode_manifest(damaged, SOURCE)


@pytest.mark.parametrize(
    "file",
    [
        "../0123456789abcdef.npy",
        "shards/../0123456789abcdef.npy",
        "/shards/0123456789abcdef.npy",
        "shards//0123456789abcdef.npy",
        "shards/0123456789abcdef.npy\n",
        "shards/0123456789ABCDEF.npy",
        "shards/0123456789abcdef.pkl",
        "shards/0123456789abcdef.npy.age",
        "other/0123456789abcdef.npy",
        "",
    ],
)
def test_path_tricks_are_refused(file: str) -> None:
    with pytest.raises(ManifestError, match="do not use this export"):
        decode_manifest(forge(shards=shard(file=file)), SOURCE)


def test_a_shard_named_twice_is_refused() -> None:
    with pytest.raises(ManifestError, match="twice"):
        decode_manifest(forge(shards=shard() * 2), SOURCE)


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(ManifestError, match=r"format version 2 .* update msdino_monai"):
        decode_manifest(forge(format_version=2), SOURCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": {"images": 99, "shards": 1, "bytes": 512}},
        {"site_id": "../a"},
        {"site_id": 3},
        {"num_tokens": -1},
        {"num_tokens": True},
        {"kept_tokens": 99},
        {"dtype": "object"},
        {"sealed": 0},
        {"details": "text"},
        {"shards": shard(bytes=-1)},
        {"shards": shard(sha256="zz")},
        {"shards": {}},
        {"patient": "Doe"},
        {"signature": "yes"},
    ],
)
def test_what_no_export_would_say_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        decode_manifest(forge(**changes), SOURCE)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000, b'{"format_version": 1}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode_manifest(data, SOURCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site_id": "a b"}, "site_id"),
        ({"dtype": "float32"}, "dtype"),
        ({"num_views": 0}, "num_views"),
        ({"kept_tokens": 7}, "kept_tokens"),
        ({"embedder": {}}, "sha256"),
    ],
)
def test_an_impossible_description_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(**changes)


def test_a_manifest_holds_nothing_but_what_is_documented(hospital: Hospital) -> None:
    hospital.run()
    stored = json.loads((hospital.output_dir / "manifest.json").read_bytes())
    assert list(stored) == [
        "format_version",
        "site_id",
        "revision",
        "embedder_sha256",
        "num_tokens",
        "kept_tokens",
        "embedding_dim",
        "num_views",
        "dtype",
        "sealed",
        "details",
        "tools",
        "counts",
        "shards",
        "signature",
        "sha256",
    ]
    assert stored["embedder_sha256"] == EMBEDDER
    assert stored["counts"]["images"] == 10


def test_a_sealed_manifest_hides_embedder_and_options(sealing_hospital: Hospital) -> None:
    sealing_hospital.run()
    text = (sealing_hospital.output_dir / "manifest.json").read_text()
    assert "margin" not in text
    assert "orthonormal" not in text
