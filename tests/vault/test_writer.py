from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vault_hospital import SHAPE, Hospital, Keys, describe, hashes, views_of

from msdino_monai.errors import UserError
from msdino_monai.vault import ExportWriter, TokenStore, read_identities, unseal, unshuffle_tokens

OpenStore = Callable[..., TokenStore]
AssertComplete = Callable[..., None]


def test_a_finished_export_is_left_as_it_is(hospital: Hospital) -> None:
    hospital.run()
    before = hashes(hospital.output_dir)
    writer = hospital.run()
    assert len(writer.finished) == 10
    assert hashes(hospital.output_dir) == before


def test_a_second_run_adds_only_what_is_missing(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete
) -> None:
    hospital.run(range(6))
    before = hashes(hospital.output_dir / "shards")
    hospital.run(range(10))
    assert before.items() <= hashes(hospital.output_dir / "shards").items()
    assert_complete(open_plain(hospital.output_dir), hospital, range(10))


def test_an_error_in_the_middle_keeps_what_was_committed(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete
) -> None:
    with pytest.raises(ValueError, match="shape"), hospital.writer() as writer:  # noqa: PT012 (the run is the case)
        for index in range(6):
            writer.add(hospital.image_id(index), views_of(index))
        writer.add(hospital.image_id(6), views_of(6)[:1])
    assert len(open_plain(hospital.output_dir)) == 4
    hospital.run(range(6))
    assert_complete(open_plain(hospital.output_dir), hospital, range(6))


def test_two_writers_on_one_folder_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    with hospital.writer():
        with pytest.raises(UserError, match="another export or withdrawal is using"):
            hospital.writer()
        with pytest.raises(UserError, match="another run is writing to"):
            Hospital(hospital.output_dir, tmp_path / "other_state").writer()
    hospital.run()


def test_ranks_of_one_run_share_an_export(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete
) -> None:
    with hospital.writer() as first, hospital.writer(takes_lock=False) as second:
        for index in range(12):
            writer = (first, second)[index % 2]
            writer.add(hospital.image_id(index), views_of(index))
    assert_complete(open_plain(hospital.output_dir), hospital, range(12))


def add_as_a_rank(site: Hospital, images: range) -> None:
    with site.writer(takes_lock=False, images_per_shard=1) as writer:
        for index in images:
            writer.add(site.image_id(index), views_of(index))


def test_ranks_commit_at_the_same_time_without_losing_a_shard(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete
) -> None:
    context = multiprocessing.get_context("spawn")
    with hospital.writer():
        shares = [range(start, start + 25) for start in (0, 25, 50)]
        ranks = [context.Process(target=add_as_a_rank, args=(hospital, share)) for share in shares]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert_complete(open_plain(hospital.output_dir), hospital, range(75))


def test_another_rank_waits_for_the_first(hospital: Hospital) -> None:
    with pytest.raises(UserError, match="must open it first"):
        hospital.writer(takes_lock=False)


def test_different_settings_are_refused_by_name(hospital: Hospital, keys: Keys) -> None:
    hospital.run()
    hospital.settings = {"options": {"margin": 0, "noise": 0.0}, "site_id": "hospital_b"}
    with pytest.raises(UserError, match=r"options\.margin was 2, now 0; site_id was \"hospital_a\""):
        hospital.run()
    hospital.settings = {}
    with pytest.raises(UserError, match="recipients was"):
        hospital.run(recipients=keys.recipient)


def test_another_tool_version_is_no_other_setting(hospital: Hospital) -> None:
    hospital.run(range(2))
    hospital.settings = {"tools": {"torch": "99"}}
    hospital.run()


def test_an_unsigned_export_may_become_signed_but_not_the_reverse(hospital: Hospital, keys: Keys) -> None:
    hospital.run()
    hospital.run(signing_key=keys.signing_key)
    assert TokenStore(hospital.output_dir, trusted_sites=keys.trusted_sites).manifests()[0]["is_verified"]
    with pytest.raises(UserError, match="signed was true, now false"):
        hospital.run()


def test_a_state_of_another_export_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    hospital.run()
    with pytest.raises(UserError, match="written with another state_dir"):
        Hospital(hospital.output_dir, tmp_path / "fresh").run()
    other = Hospital(tmp_path / "export_b", tmp_path / "state_b")
    other.run()
    with pytest.raises(UserError, match="was not written with state_dir"):
        Hospital(hospital.output_dir, other.state_dir).run()
    with pytest.raises(UserError, match="belongs to an export that is not in"):
        Hospital(tmp_path / "nowhere", hospital.state_dir).run()


def test_shards_of_somebody_else_are_not_deleted(hospital: Hospital) -> None:
    foreign = hospital.output_dir / "shards" / "0123456789abcdef.npy"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"precious")
    with pytest.raises(UserError, match="without a manifest"):
        hospital.run()
    assert foreign.read_bytes() == b"precious"


def test_an_export_does_not_begin_among_other_files(hospital: Hospital) -> None:
    """They would be sent with it; what a crash before the first manifest left is ours."""
    (hospital.output_dir / "shards").mkdir(parents=True)
    (hospital.output_dir / ".0123456789abcdef.tmp").touch()
    (hospital.output_dir / "a.dcm").touch()
    with pytest.raises(UserError, match=r"holds other files \(a\.dcm\)"):
        hospital.run()
    (hospital.output_dir / "a.dcm").unlink()
    hospital.run()
    assert {path.name for path in hospital.output_dir.iterdir()} == {"manifest.json", "shards"}


@pytest.mark.parametrize("inside", [("export", "export/state"), ("state/export", "state"), ("same", "same")])
def test_state_and_export_lie_apart(tmp_path: Path, inside: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="must not contain each other"):
        Hospital(tmp_path / inside[0], tmp_path / inside[1]).run()


def test_orphans_are_dropped(hospital: Hospital) -> None:
    hospital.run()
    kept = hospital.shards()
    shards = hospital.output_dir / "shards"
    for name in ("0123456789abcdef.npy", ".0123456789abcdef.tmp"):
        (shards / name).write_bytes(b"half")
    (hospital.state_dir / "shards" / "fedcba9876543210.json").write_text('{"sha256":"","images":[],"patients":[]}')
    (shards / "notes.txt").write_text("not ours")
    hospital.run()
    assert hospital.shards() == sorted([*kept, shards / "notes.txt"])
    assert len(list((hospital.state_dir / "shards").iterdir())) == len(kept)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x"), "flip"])
def test_damaged_shards_are_named_and_done_again(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete, damage: Any
) -> None:
    hospital.run()
    path = hospital.shards()[0]
    if damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"\xee")
    else:
        damage(path)
    writer = hospital.run()
    assert len(writer.damaged) == 1
    assert path.name in writer.damaged[0]
    assert_complete(open_plain(hospital.output_dir), hospital, range(10))


def test_plaintext_never_touches_a_sealed_export(sealing_hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(bytes(data)) or write(descriptor, data))
    sealing_hospital.run()
    monkeypatch.undo()
    written += [path.read_bytes() for path in sealing_hospital.output_dir.rglob("*") if path.is_file()]
    assert len(written) > 6
    secrets = [views_of(index)[view, token].tobytes() for index in range(10) for view in range(2) for token in range(6)]
    ids = [sealing_hospital.image_id(index) for index in range(10)]
    for data in written:
        assert not any(secret in data for secret in secrets)
        assert not any(image in data for image in ids)
        assert b"NUMPY" not in data


def test_the_hospitals_secrets_are_private(sealing_hospital: Hospital, keys: Keys) -> None:
    orders = np.tile(np.arange(SHAPE[1]), (SHAPE[0], 1))
    with sealing_hospital.writer(order_recipients=keys.recipient) as writer:
        writer.add(b"i" * 16, views_of(0), orders=orders)
    for path in [sealing_hospital.state_dir, *sealing_hospital.state_dir.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_kept_orders_restore_the_shuffled_tokens(
    hospital: Hospital, keys: Keys, open_plain: OpenStore, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    all_orders = {index: rng.permuted(np.tile(np.arange(6), (2, 1)), axis=1) for index in range(5)}
    with hospital.writer(order_recipients=keys.recipient) as writer:
        for index, orders in all_orders.items():
            shuffled = np.take_along_axis(views_of(index), orders[:, :, None], axis=1)
            writer.add(hospital.image_id(index), shuffled, orders=orders)
    store, restored = open_plain(hospital.output_dir), 0
    places = {image.tobytes(): place for place, image in enumerate(store.image_ids)}
    for path in (hospital.state_dir / "orders").iterdir():
        (tmp_path / "orders.npy").write_bytes(unseal(path.read_bytes(), read_identities(keys.identity), path))
        for row in np.load(tmp_path / "orders.npy", allow_pickle=False):
            index = next(i for i in all_orders if hospital.image_id(i) == row["image"].tobytes())
            tokens = store.gather([places[row["image"].tobytes()]] * 2, [0, 1])
            np.testing.assert_array_equal(unshuffle_tokens(tokens, row["orders"]), views_of(index))
            restored += 1
    assert restored == 5


def test_rows_of_a_shard_do_not_tell_the_order_of_files(hospital: Hospital, open_plain: OpenStore) -> None:
    hospital.run(range(64), images_per_shard=64)
    ids = [image.tobytes() for image in open_plain(hospital.output_dir).image_ids]
    assert ids != [hospital.image_id(index) for index in range(64)]


def test_a_lost_shard_folder_is_made_again_and_a_linked_one_refused(
    hospital: Hospital, open_plain: OpenStore, assert_complete: AssertComplete, tmp_path: Path
) -> None:
    hospital.run()
    (hospital.output_dir / "shards").rename(tmp_path / "elsewhere")
    assert len(hospital.run().damaged) == 3
    assert_complete(open_plain(hospital.output_dir), hospital, range(10))
    (hospital.output_dir / "shards").rename(tmp_path / "moved")
    (hospital.output_dir / "shards").symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match="is a link"):
        hospital.run()
    assert len(list((tmp_path / "moved").iterdir())) == 3


@pytest.mark.parametrize("sealed", [True, False])
def test_an_export_is_hardly_larger_than_its_payload(tmp_path: Path, keys: Keys, sealed: bool) -> None:
    description = describe(num_tokens=196, embedding_dim=192, num_views=1, dtype="int8")
    writing = {"recipients": keys.recipient, "signing_key": keys.signing_key} if sealed else {}
    with ExportWriter(tmp_path / "export", tmp_path / "state", description, **writing) as writer:
        for index in range(300):
            writer.add(index.to_bytes(16, "big"), np.ones((1, 196, 192)))
    size = sum(path.stat().st_size for path in (tmp_path / "export").rglob("*") if path.is_file())
    assert size <= 1.01 * 300 * 196 * 192
    assert description.bytes_per_image <= 1.01 * 196 * 192


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"short", np.zeros(SHAPE)), "16 bytes"),
        ((b"i" * 16, np.zeros((1, 2, 3))), "shape"),
        ((b"i" * 16, np.full(SHAPE, np.nan)), "finite"),
    ],
)
def test_a_wrong_record_is_refused(hospital: Hospital, arguments: Any, message: str) -> None:
    with hospital.writer() as writer, pytest.raises(ValueError, match=message):
        writer.add(*arguments)


def test_an_image_is_added_once(hospital: Hospital) -> None:
    with hospital.writer() as writer:
        writer.add(b"i" * 16, views_of(0))
        with pytest.raises(ValueError, match="already"):
            writer.add(b"i" * 16, views_of(0))


def test_no_identifier_reaches_the_disk(sealing_hospital: Hospital, hospital: Hospital) -> None:
    for site in (sealing_hospital, hospital):
        site.run()
        for folder in (site.output_dir, site.state_dir):
            found = subprocess.run(["grep", "-rlE", "patient [0-9]|image [0-9]", str(folder)], capture_output=True)
            assert found.stdout == b""
