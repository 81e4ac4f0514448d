from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from msdino_monai.errors import UserError
from msdino_monai.vault import parse_recipients, read_identities, seal, unseal
from msdino_monai.vault.keygen import KINDS, keygen
from msdino_monai.vault.signing import read_public_key, read_signing_key


def secrets_in(folder: Path) -> list[str]:
    lines = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    return [line for line in lines if "SECRET" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_are_private_and_not_printed(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0)
    try:
        keygen(str(tmp_path), kind)
    finally:
        os.umask(before)
    printed = capsys.readouterr().out
    assert secrets_in(tmp_path)
    for path in tmp_path.iterdir():
        if "SECRET" in path.read_text():
            assert path.stat().st_mode & 0o777 == 0o600
    assert not any(secret in printed for secret in secrets_in(tmp_path))


def test_a_site_is_told_the_line_for_the_coordinator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keygen(str(tmp_path), "site", "hospital_a")
    public = read_signing_key(tmp_path / "hospital_a_signing_key.txt").public
    assert f"hospital_a {public}\n" in capsys.readouterr().out
    assert read_public_key(tmp_path / "hospital_a_signing_key.pub") == public


def test_the_coordinators_pair_fits_together_and_suits_age(tmp_path: Path) -> None:
    keygen(str(tmp_path), "coordinator")
    identity = tmp_path / "coordinator_identity.txt"
    recipient = (tmp_path / "coordinator_recipient.txt").read_text().strip()
    asked = subprocess.run(["age-keygen", "-y", str(identity)], check=True, capture_output=True, text=True)
    assert asked.stdout.strip() == recipient
    assert unseal(seal(b"x", parse_recipients(recipient)), read_identities(identity), "x") == b"x"


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    keygen(str(tmp_path), "site", "a")
    before = secrets_in(tmp_path)
    with pytest.raises(UserError, match=r"a_signing_key\.txt exists and is not overwritten"):
        keygen(str(tmp_path), "site", "a")
    assert secrets_in(tmp_path) == before


@pytest.mark.parametrize(("kind", "name"), [("friend", ""), ("site", "../a"), ("site", "a b")])
def test_a_wrong_kind_or_name_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(UserError, match="must be"):
        keygen(str(tmp_path), kind, name)
    assert list(tmp_path.iterdir()) == []
