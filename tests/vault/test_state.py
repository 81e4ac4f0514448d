from __future__ import annotations

from pathlib import Path

import pytest

from msdino_monai.errors import UserError
from msdino_monai.vault import ExportState


def test_ids_stay_the_same_for_one_hospital_and_differ_between_two(tmp_path: Path) -> None:
    first, again, other = (ExportState(tmp_path / name) for name in ("a", "a", "b"))
    assert first.salted_id("1234", "image") == again.salted_id("1234", "image")
    assert first.salted_id("1234", "image") != other.salted_id("1234", "image")
    assert len(first.salted_id("1234", "image")) == 16


def test_an_image_and_a_patient_of_one_name_have_two_ids(tmp_path: Path) -> None:
    state = ExportState(tmp_path / "state")
    assert state.salted_id("1234", "image") != state.salted_id("1234", "patient")


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    state = ExportState(tmp_path / "state")
    (tmp_path / "state" / "withdrawn.json").write_text("[")
    with pytest.raises(UserError, match=r"withdrawn\.json is damaged"):
        state.is_withdrawn(b"p" * 16)
    (tmp_path / "state" / "salt").write_bytes(b"short")
    with pytest.raises(UserError, match="salt is damaged"):
        ExportState(tmp_path / "state")
