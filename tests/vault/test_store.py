from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vault_hospital import SHAPE, Hospital, Keys, describe, views_of

from msdino_monai.errors import UserError
from msdino_monai.vault import ExportWriter, TokenStore
from msdino_monai.vault.keygen import keygen
from msdino_monai.vault.manifest import Manifest, ShardEntry, _readable, _with_checksum, decode_manifest
from msdino_monai.vault.store import StoreError, find_exports

OpenStore = Callable[..., TokenStore]


def rewrite(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """A consistent, unsigned manifest, as a stranger could write it."""
    path = folder / "manifest.json"
    path.write_bytes(change(decode_manifest(path.read_bytes(), path)).signed(None).encode())


def rehash(folder: Path) -> None:
    """Make the manifest agree with the shards as they lie now."""

    def entries(manifest: Manifest) -> Manifest:
        return manifest.with_shards(
            tuple(
                ShardEntry(
                    s.file, len(data := (folder / s.file).read_bytes()), hashlib.sha256(data).hexdigest(), s.images
                )
                for s in manifest.shards
            )
        )

    rewrite(folder, entries)


def test_gather_returns_each_image_in_its_view(hospital: Hospital, open_plain: OpenStore) -> None:
    hospital.run(range(30))
    store = open_plain(hospital.output_dir, verify="lazy")
    index_of = {hospital.image_id(index): index for index in range(30)}
    indices = [index_of[image.tobytes()] for image in store.image_ids]
    rng = np.random.default_rng(0)
    images, views = rng.integers(0, 30, 100), rng.integers(0, 2, 100)
    expected = np.stack([views_of(indices[image])[view] for image, view in zip(images, views, strict=True)])
    np.testing.assert_array_equal(store.gather(images, views), expected)
    out = np.empty_like(expected)
    assert store.gather(images, views, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert (store.num_views, store.num_tokens, store.kept_tokens, store.embedding_dim) == (2, 6, 6, 8)
    assert store.embedder["seed"] == 7


def test_int8_comes_back_as_float32(hospital: Hospital, open_plain: OpenStore) -> None:
    hospital.settings = {"dtype": "int8"}
    hospital.run(range(5))
    store = open_plain(hospital.output_dir)
    index_of = {hospital.image_id(index): index for index in range(5)}
    for place, image in enumerate(store.image_ids):
        gathered = store.gather([place, place], [0, 1])
        assert gathered.dtype == np.float32
        np.testing.assert_allclose(gathered, views_of(index_of[image.tobytes()]), atol=0.02)


def test_dropped_tokens_make_smaller_sets(hospital: Hospital, open_plain: OpenStore) -> None:
    hospital.settings = {"kept_tokens": 4}
    with hospital.writer() as writer:
        writer.add(b"i" * 16, views_of(0)[:, :4])
    assert open_plain(hospital.output_dir).gather([0]).shape == (1, 4, 8)


def test_many_sites_are_one_store(tmp_path: Path, open_plain: OpenStore) -> None:
    for site, count in (("a", 3), ("b", 9)):
        site_hospital = Hospital(tmp_path / "exports" / site, tmp_path / f"state_{site}", {"site_id": site})
        site_hospital.run(range(count))
    for paths in (tmp_path / "exports", [tmp_path / "exports" / "a", tmp_path / "exports" / "b"]):
        store = open_plain(paths)
        assert store.sites == (("a", 3), ("b", 9))
        assert len(store) == 12
        assert store.gather(np.arange(12)).shape == (12, *SHAPE[1:])
        assert [entry["options"]["margin"] for entry in store.manifests()] == [2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedder": {"sha256": "f" * 64}}, f"embedder_sha256: .* in .*, {'f' * 64} in .*export_b"),
        ({"num_tokens": 9, "kept_tokens": 6}, "num_tokens: 6 in .*, 9 in"),
        ({"dtype": "int8"}, "dtype: float16 in .*, int8 in"),
        ({"site_id": "hospital_a"}, "hospital_a is named twice"),
    ],
)
def test_exports_that_do_not_go_together_are_refused(
    hospital: Hospital, tmp_path: Path, open_plain: OpenStore, changes: dict[str, Any], message: str
) -> None:
    other = Hospital(tmp_path / "export_b", tmp_path / "state_b", {"site_id": "hospital_b", **changes})
    for site in (hospital, other):
        site.run()
    with pytest.raises(UserError, match=message):
        open_plain([hospital.output_dir, other.output_dir])


@pytest.mark.parametrize("sealed", [False, True])
def test_every_flipped_byte_and_cut_of_a_shard_is_caught(
    hospital: Hospital, sealing_hospital: Hospital, open_plain: OpenStore, open_sealed: OpenStore, sealed: bool
) -> None:
    site, open_ = (sealing_hospital, open_sealed) if sealed else (hospital, open_plain)
    site.run(range(4))
    (path,) = site.shards()
    whole = path.read_bytes()
    lazy = open_(site.output_dir, verify="lazy")
    for place in sorted({*range(0, len(whole), 17), len(whole) - 1}):
        flipped = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=path.name):
                open_(site.output_dir)
            with pytest.raises(UserError, match=path.name):
                lazy.gather([0])
    path.write_bytes(whole)
    lazy.gather([0])


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(hospital: Hospital, open_plain: OpenStore) -> None:
    hospital.run(range(4))
    (path,) = hospital.shards()
    for array in (np.zeros(4), np.zeros(3, describe().layout.record)):
        np.save(path, array)
        rehash(hospital.output_dir)
        with pytest.raises(UserError, match=r"records of .* bytes, the manifest says"):
            open_plain(hospital.output_dir)
    np.save(path, np.array([{"code": "evil"}]), allow_pickle=True)
    rehash(hospital.output_dir)
    with pytest.raises(UserError, match=r"is not a whole \.npy file"):
        open_plain(hospital.output_dir)


@pytest.mark.parametrize("what", ["shards", "file", "manifest.json"])
def test_links_are_refused(hospital: Hospital, open_plain: OpenStore, tmp_path: Path, what: str) -> None:
    hospital.run(range(4))
    path = hospital.shards()[0] if what == "file" else hospital.output_dir / what
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link"):
        open_plain(hospital.output_dir)


def test_an_empty_folder_and_an_empty_export_are_refused(
    hospital: Hospital, open_plain: OpenStore, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no folder"):
        open_plain(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no export"):
        open_plain(tmp_path)
    hospital.run(())
    with pytest.raises(UserError, match="holds no images"):
        open_plain(hospital.output_dir)


def test_only_trusted_signatures_are_accepted(
    sealing_hospital: Hospital, hospital: Hospital, keys: Keys, open_sealed: OpenStore, tmp_path: Path
) -> None:
    sealing_hospital.run()
    hospital.run()
    folder = sealing_hospital.output_dir
    assert open_sealed(folder).manifests()[0]["is_verified"]
    with pytest.raises(UserError, match="is not signed; ask hospital_a"):
        TokenStore(hospital.output_dir, trusted_sites=keys.trusted_sites)
    with pytest.raises(UserError, match="hospital_a is not in trusted_sites"):
        open_sealed(folder, trusted_sites=None)
    keygen(str(tmp_path / "other"), "site", "hospital_a")
    public = (tmp_path / "other" / "hospital_a_signing_key.pub").read_text()
    (tmp_path / "trusted").write_text(f"hospital_a {public}")
    with pytest.raises(UserError, match="another key than trusted_sites lists for hospital_a"):
        open_sealed(folder, trusted_sites=tmp_path / "trusted")
    assert not open_sealed(folder, trusted_sites=None, allow_unsigned=True).manifests()[0]["is_verified"]


def test_a_signature_moved_to_other_content_is_wrong(sealing_hospital: Hospital, open_sealed: OpenStore) -> None:
    sealing_hospital.run()
    path = sealing_hospital.output_dir / "manifest.json"
    stored = json.loads(path.read_bytes())
    path.write_bytes(_readable(_with_checksum({**stored, "revision": stored["revision"] + 1})))
    with pytest.raises(UserError, match="signature of hospital_a is wrong"):
        open_sealed(sealing_hospital.output_dir)


def test_a_wrong_or_missing_identity_is_refused(
    sealing_hospital: Hospital, open_sealed: OpenStore, tmp_path: Path
) -> None:
    sealing_hospital.run()
    keygen(str(tmp_path / "other"), "orders")
    with pytest.raises(UserError, match="sealed for another key"):
        open_sealed(sealing_hospital.output_dir, identity=tmp_path / "other" / "orders_identity.txt")
    with pytest.raises(UserError, match="give the identity"):
        open_sealed(sealing_hospital.output_dir, identity=None)


def test_the_cache_is_private_checked_and_used_again(
    sealing_hospital: Hospital, open_sealed: OpenStore, tmp_path: Path
) -> None:
    sealing_hospital.run()
    expected = open_sealed(sealing_hospital.output_dir).gather([0, 9])
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    files = list((tmp_path / "cache").rglob("*.npy"))
    assert len(files) == 3
    written = {path: path.stat().st_mtime_ns for path in files}
    open_sealed(sealing_hospital.output_dir)
    assert {path: path.stat().st_mtime_ns for path in files} == written
    for path in files:  # a cache that rots is not believed
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    np.testing.assert_array_equal(open_sealed(sealing_hospital.output_dir).gather([0, 9]), expected)


def test_plaintext_is_not_put_into_an_export(sealing_hospital: Hospital, open_sealed: OpenStore) -> None:
    sealing_hospital.run()
    with pytest.raises(UserError, match="lies inside the export"):
        open_sealed(sealing_hospital.output_dir, cache_dir=sealing_hospital.output_dir / "cache")
    assert not (sealing_hospital.output_dir / "cache").exists()
    with pytest.raises(UserError, match="need a cache_dir"):
        open_sealed(sealing_hospital.output_dir, cache_dir=None)


def test_a_pickled_store_is_small_secretless_and_works(sealing_hospital: Hospital, open_sealed: OpenStore) -> None:
    sealing_hospital.run()
    store = open_sealed(sealing_hospital.output_dir)
    pickled = pickle.dumps(store)
    assert b"AGE-SECRET-KEY" not in pickled
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled).gather([3, 1]), store.gather([3, 1]))


def gather_in_worker(store: TokenStore) -> np.ndarray:
    return store.gather([5, 0, 7])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader_workers_read_the_same_tokens(hospital: Hospital, open_plain: OpenStore, method: str) -> None:
    hospital.run()
    store = open_plain(hospital.output_dir, verify="lazy")
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(gather_in_worker, (store,)), gather_in_worker(store))


@pytest.mark.parametrize(
    ("images", "views", "error"),
    [
        ([10], None, IndexError),
        ([-1], None, IndexError),
        ([0], [2], IndexError),
        ([[0]], None, ValueError),
        ([0], [0, 0], ValueError),
        ([0.5], None, ValueError),
    ],
)
def test_wrong_indices_are_refused(
    hospital: Hospital, open_plain: OpenStore, images: Any, views: Any, error: type[Exception]
) -> None:
    hospital.run()
    with pytest.raises(error):
        open_plain(hospital.output_dir).gather(images, views)


def test_a_million_images_open_at_once(hospital: Hospital, open_plain: OpenStore) -> None:
    """No work per image: 4,000 shards of 256 that are only named. The bound is far above what it takes."""
    hospital.run(range(4))
    (real,) = hospital.shards()
    many = tuple(ShardEntry(f"shards/{n:016x}.npy", 4096, f"{n:064x}", 256) for n in range(4000))
    rewrite(hospital.output_dir, lambda manifest: manifest.with_shards((*manifest.shards, *many)))
    start = time.perf_counter()
    store = open_plain(hospital.output_dir, verify="lazy")
    assert time.perf_counter() - start < 10
    assert len(store) == 4 + 256 * 4000
    place = sorted([real.name, *(Path(entry.file).name for entry in many)]).index(real.name) * 256
    assert store.gather([place]).shape == (1, *SHAPE[1:])


def test_the_vault_needs_neither_torch_nor_monai() -> None:
    code = "import sys, msdino_monai.vault; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_bad_argument_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="verify must be"):
        TokenStore(tmp_path, verify="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images_per_shard"):
        ExportWriter(tmp_path / "a", tmp_path / "b", describe(), images_per_shard=0)


def test_export_that_arrived_without_its_manifest_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "site_a").mkdir()
    (tmp_path / "site_a" / "manifest.json").touch()
    (tmp_path / "site_b" / "shards").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"site_b has shards but no manifest\.json"):
        find_exports(tmp_path)
    (tmp_path / "site_b" / "salt").touch()  # what a hospital keeps
    assert find_exports(tmp_path) == [tmp_path / "site_a"]


def test_exports_that_are_hidden_differently_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for site, noise in (("hospital_a", 0.2), ("hospital_b", 0.2), ("hospital_c", 0.0)):
        options = {"margin": 2, "noise": noise}
        Hospital(tmp_path / site, tmp_path / f"{site}.state", {"site_id": site, "options": options}).run(range(2))
    alike = [tmp_path / "hospital_a", tmp_path / "hospital_b"]
    assert len(TokenStore(alike, allow_unsigned=True)) == 4
    assert caplog.messages == []
    TokenStore([*alike, tmp_path / "hospital_c"], allow_unsigned=True)
    (line,) = caplog.messages
    assert line.startswith("exports differ in noise: 0.2 of site hospital_a, 0.0 of site hospital_c")
