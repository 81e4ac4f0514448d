from __future__ import annotations

import json
from pathlib import Path

import pytest
from vault_hospital import Hospital, Keys

from msdino_monai.errors import UserError
from msdino_monai.vault import check_receipt
from msdino_monai.vault.receive import receive


def accept(site: Hospital, keys: Keys, receipt: Path, signing_key: str | None = None) -> None:
    receive(
        str(site.output_dir),
        str(receipt),
        identity=str(keys.identity),
        trusted_sites=str(keys.trusted_sites),
        signing_key=signing_key,
    )


def test_a_receipt_fits_its_export_and_no_other(sealing_hospital: Hospital, keys: Keys, tmp_path: Path) -> None:
    sealing_hospital.run()
    receipt = tmp_path / "receipt.json"
    accept(sealing_hospital, keys, receipt, str(keys.folder / "coordinator_signing_key.txt"))
    public = keys.folder / "coordinator_signing_key.pub"
    checked = check_receipt(receipt, sealing_hospital.output_dir, public)
    assert checked["counts"]["images"] == 10
    assert checked["is_verified"]
    with pytest.raises(UserError, match="not signed with the coordinator's key"):
        check_receipt(receipt, sealing_hospital.output_dir, keys.folder / "hospital_a_signing_key.pub")
    sealing_hospital.run(range(12))
    with pytest.raises(UserError, match="another state of the export"):
        check_receipt(receipt, sealing_hospital.output_dir, public)


def test_a_changed_or_unsigned_receipt_is_refused(sealing_hospital: Hospital, keys: Keys, tmp_path: Path) -> None:
    sealing_hospital.run()
    receipt, public = tmp_path / "receipt.json", keys.folder / "coordinator_signing_key.pub"
    accept(sealing_hospital, keys, receipt, str(keys.folder / "coordinator_signing_key.txt"))
    stored = json.loads(receipt.read_bytes())
    receipt.write_text(json.dumps({**stored, "received_with": "99"}))
    with pytest.raises(UserError, match="not signed"):
        check_receipt(receipt, sealing_hospital.output_dir, public)
    accept(sealing_hospital, keys, receipt)
    check_receipt(receipt, sealing_hospital.output_dir)
    with pytest.raises(UserError, match="not signed"):
        check_receipt(receipt, sealing_hospital.output_dir, public)
    receipt.write_text("[]")
    with pytest.raises(UserError, match="is not a receipt"):
        check_receipt(receipt, sealing_hospital.output_dir)


def test_no_receipt_is_given_for_a_damaged_export(sealing_hospital: Hospital, keys: Keys, tmp_path: Path) -> None:
    sealing_hospital.run()
    path = sealing_hospital.shards()[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=path.name):
        accept(sealing_hospital, keys, tmp_path / "receipt.json")
    assert not (tmp_path / "receipt.json").exists()


def test_receiving_leaves_no_plaintext_unless_asked(sealing_hospital: Hospital, keys: Keys, tmp_path: Path) -> None:
    sealing_hospital.run()
    before = set(tmp_path.rglob("*"))
    accept(sealing_hospital, keys, tmp_path / "receipt.json")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "receipt.json"}
    receive(
        str(sealing_hospital.output_dir),
        str(tmp_path / "receipt.json"),
        identity=str(keys.identity),
        trusted_sites=str(keys.trusted_sites),
        cache_dir=str(tmp_path / "cache"),
    )
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3


def test_one_export_is_received_at_a_time(hospital: Hospital, tmp_path: Path) -> None:
    hospital.run()
    with pytest.raises(UserError, match="one at a time"):
        receive(str(tmp_path), str(tmp_path / "receipt.json"), allow_unsigned=True)
