from __future__ import annotations

import subprocess
from pathlib import Path

import pyrage
import pytest
from vault_hospital import Hospital, Keys

from msdino_monai.vault import parse_recipients, read_identities, seal, unseal
from msdino_monai.vault.seal import SealError


def test_recipients_come_as_text_or_list(keys: Keys) -> None:
    other = str(pyrage.x25519.Identity.generate().to_public())
    expected = tuple(sorted([keys.recipient, other]))
    assert parse_recipients(f"{keys.recipient}, {other}") == expected
    assert parse_recipients([other, keys.recipient, other]) == expected
    assert parse_recipients("") == ()


def test_a_bad_recipient_is_named() -> None:
    with pytest.raises(SealError, match="age1nonsense"):
        parse_recipients("age1nonsense")


def test_a_secret_key_given_as_recipient_is_not_repeated() -> None:
    secret = str(pyrage.x25519.Identity.generate())
    with pytest.raises(SealError) as refused:
        parse_recipients(secret)
    assert secret not in str(refused.value)


def test_several_recipients_can_each_open() -> None:
    people = [pyrage.x25519.Identity.generate() for _ in range(2)]
    sealed = seal(b"tokens", [str(person.to_public()) for person in people])
    assert all(unseal(sealed, [person], "x") == b"tokens" for person in people)


def test_a_wrong_key_is_told_from_damage(keys: Keys) -> None:
    sealed = seal(b"tokens" * 100, [keys.recipient])
    with pytest.raises(SealError, match=r"a\.npy\.age is sealed for another key"):
        unseal(sealed, [pyrage.x25519.Identity.generate()], "a.npy.age")
    with pytest.raises(SealError, match=r"a\.npy\.age was altered or cut short"):
        unseal(sealed[:-1], read_identities(keys.identity), "a.npy.age")


def test_every_flipped_byte_and_every_cut_of_sealed_data_is_caught(keys: Keys) -> None:
    identities = read_identities(keys.identity)
    sealed = seal(bytes(range(256)), [keys.recipient])
    for place in range(len(sealed)):
        flipped = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        for damaged in (flipped, sealed[:place]):
            with pytest.raises(SealError):
                unseal(damaged, identities, "x")


def test_the_standard_age_tool_opens_a_sealed_shard(sealing_hospital: Hospital, keys: Keys) -> None:
    sealing_hospital.run()
    shard = sealing_hospital.shards()[0]
    command = ["age", "--decrypt", "--identity", str(keys.identity), str(shard)]
    opened = subprocess.run(command, check=True, capture_output=True).stdout
    assert opened.startswith(b"\x93NUMPY")
    assert opened == unseal(shard.read_bytes(), read_identities(keys.identity), shard)


def test_an_identity_of_age_keygen_is_read(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True).stdout
    assert unseal(seal(b"tokens", parse_recipients(recipient)), read_identities(path), "x") == b"tokens"


@pytest.mark.parametrize("text", ["", "# nothing\n", "AGE-SECRET-KEY-1NOTAKEY\n", "age1public\n", "\xff"])
def test_what_is_no_identity_file_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SealError, match=r"identity\.txt") as refused:
        read_identities(path)
    assert "NOTAKEY" not in str(refused.value)
