from __future__ import annotations

import os
from pathlib import Path

import pytest
from vault_hospital import Keys

from msdino_monai.vault.signing import (
    SignatureError,
    SigningKey,
    read_signing_key,
    read_trusted_sites,
    verifies,
)


def test_a_signature_is_bound_to_key_and_message(keys: Keys) -> None:
    key, other = read_signing_key(keys.signing_key), SigningKey(os.urandom(32))
    signature = key.sign(b"message")
    assert verifies(key.public, b"message", signature)
    assert not verifies(key.public, b"massage", signature)
    assert not verifies(other.public, b"message", signature)
    assert not verifies(key.public, b"message", "no base64")


@pytest.mark.parametrize(
    "text", ["", "ED25519-SECRET-KEY:c2hvcnQ=\n", "ED25519-SECRET-KEY:?\n", "two\nlines\n", "\xff"]
)
def test_what_is_no_signing_key_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SignatureError, match=r"key\.txt is not a signing key") as refused:
        read_signing_key(path)
    assert "c2hvcnQ" not in str(refused.value)


def test_trusted_sites_may_hold_comments(tmp_path: Path) -> None:
    keys = [SigningKey(os.urandom(32)).public for _ in range(2)]
    path = tmp_path / "trusted"
    path.write_text(f"# sites\n\na {keys[0]}  # since spring\nb {keys[1]}\n")
    assert read_trusted_sites(path) == {"a": keys[0], "b": keys[1]}


@pytest.mark.parametrize("line", ["a", "a b c", "../a ed25519:AA==", "a ed25519:AA==", "a rsa:AA=="])
def test_a_wrong_line_of_trusted_sites_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trusted"
    path.write_text(f"# sites\n{line}\n")
    with pytest.raises(SignatureError, match="trusted line 2"):
        read_trusted_sites(path)


def test_a_site_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trusted"
    path.write_text("".join(f"a {SigningKey(os.urandom(32)).public}\n" for _ in range(2)))
    with pytest.raises(SignatureError, match="listed twice"):
        read_trusted_sites(path)
