from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from vault_hospital import Hospital, Keys, views_of

from msdino_monai.errors import UserError
from msdino_monai.vault import ExportState, TokenStore, Withdrawal, withdraw_patient
from msdino_monai.vault.ledger import Ledger

OpenStore = Callable[..., TokenStore]
AssertComplete = Callable[..., None]


def revision(hospital: Hospital) -> int:
    return int(json.loads((hospital.output_dir / "manifest.json").read_bytes())["revision"])


def test_a_withdrawn_patient_leaves_a_sealed_export_and_does_not_come_back(
    sealing_hospital: Hospital, keys: Keys, open_sealed: OpenStore, assert_complete: AssertComplete
) -> None:
    sealing_hospital.run(range(12))
    before, shards = revision(sealing_hospital), sealing_hospital.shards()
    withdrawal = withdraw_patient(
        sealing_hospital.state_dir, sealing_hospital.output_dir, "patient 2", keys.signing_key
    )
    assert withdrawal == Withdrawal(images=2, again=2)  # images 4 and 5 lay in one shard with 6 and 7
    assert len(sealing_hospital.shards()) == len(shards) - 1
    assert revision(sealing_hospital) > before
    rest = [index for index in range(12) if index not in (4, 5)]
    assert_complete(open_sealed(sealing_hospital.output_dir), sealing_hospital, [i for i in rest if i not in (6, 7)])
    sealing_hospital.run(range(12))
    assert_complete(open_sealed(sealing_hospital.output_dir), sealing_hospital, rest)


def test_the_writer_itself_refuses_a_withdrawn_patient(hospital: Hospital) -> None:
    hospital.run()
    withdraw_patient(hospital.state_dir, hospital.output_dir, "patient 2")
    with hospital.writer() as writer:
        patient = writer.state.salted_id("patient 2", "patient")
        with pytest.raises(UserError, match="withdrawn"):
            writer.add(b"i" * 16, views_of(0), patient=patient)


def test_withdrawn_images_do_not_come_back_under_another_name(hospital: Hospital) -> None:
    """Another datalist may call the patient otherwise, or say nothing."""
    hospital.run()
    withdraw_patient(hospital.state_dir, hospital.output_dir, "patient 2")
    with hospital.writer() as writer:
        for patient in (writer.state.salted_id("P-0002", "patient"), None):
            with pytest.raises(UserError, match="withdrawn"):
                writer.add(hospital.image_id(4), views_of(4), patient=patient)
        assert not writer.state.is_withdrawn(hospital.image_id(6))


def test_a_list_of_patients_alone_is_still_believed(hospital: Hospital) -> None:
    """Earlier versions noted no images."""
    hospital.run()
    state = ExportState(hospital.state_dir)
    (hospital.state_dir / "withdrawn.json").write_text(json.dumps([state.salted_id("patient 2", "patient").hex()]))
    assert ExportState(hospital.state_dir).is_withdrawn(state.salted_id("patient 2", "patient"))
    hospital.run()
    assert not {hospital.image_id(4), hospital.image_id(5)} & hospital.run().finished


def test_a_withdrawal_cut_short_is_finished_by_the_next_run(
    hospital: Hospital,
    open_plain: OpenStore,
    assert_complete: AssertComplete,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hospital.run()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "drop", dies)
        with pytest.raises(KeyboardInterrupt):
            withdraw_patient(hospital.state_dir, hospital.output_dir, "patient 0")
    hospital.run()
    assert_complete(open_plain(hospital.output_dir), hospital, range(2, 10))


def test_an_unknown_patient_takes_nothing_out(hospital: Hospital) -> None:
    hospital.run()
    assert withdraw_patient(hospital.state_dir, hospital.output_dir, "nobody") == Withdrawal(0, 0)


def test_a_withdrawal_waits_for_a_running_export(hospital: Hospital) -> None:
    with hospital.writer(), pytest.raises(UserError, match="wait until it ends"):
        withdraw_patient(hospital.state_dir, hospital.output_dir, "patient 0")


def test_a_signed_export_stays_signed(sealing_hospital: Hospital) -> None:
    sealing_hospital.run()
    with pytest.raises(UserError, match="give the signing key"):
        withdraw_patient(sealing_hospital.state_dir, sealing_hospital.output_dir, "patient 0")


def test_a_folder_that_is_no_state_is_not_made_one(hospital: Hospital, tmp_path: Path) -> None:
    hospital.run()
    with pytest.raises(UserError, match="is no state_dir"):
        withdraw_patient(tmp_path / "typo", hospital.output_dir, "patient 0")
    assert not (tmp_path / "typo").exists()
