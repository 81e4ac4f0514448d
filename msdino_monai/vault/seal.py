"""Sealing: real cryptography, in the age format (https://age-encryption.org/v1), so that `age` itself opens it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import read_file

Identities = Sequence["pyrage.x25519.Identity"]


class SealError(UserError):
    """Something sealed that cannot be opened, or a key that is none."""


def parse_recipients(recipients: str | Iterable[str]) -> tuple[str, ...]:
    """The public keys in `age1...,age1...` or in a list of such, checked, sorted, each once."""
    texts = recipients.split(",") if isinstance(recipients, str) else [p for r in recipients for p in r.split(",")]
    keys = {text.strip() for text in texts if text.strip()}
    for key in keys:
        try:
            pyrage.x25519.Recipient.from_str(key)
        except pyrage.RecipientError:
            # What is no public key may be a secret one given by mistake: it must not reach a log.
            shown = repr(key) if key.startswith("age1") else "what was given"
            raise SealError(
                f"{shown} is not an age public key; give the age1... line the coordinator sent you."
            ) from None
    return tuple(sorted(keys))


def read_identities(path: str | Path) -> Identities:
    """The secret keys of an identity file as written by `keygen` or `age-keygen`."""
    path = Path(path).expanduser()
    try:
        lines = [line.strip() for line in read_file(path.resolve()).decode("utf-8").splitlines()]
        identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except (UnicodeDecodeError, pyrage.IdentityError):
        raise SealError(f"{path} is not an age identity file; give one made by `keygen` or `age-keygen`.") from None
    if not identities:
        raise SealError(f"{path} holds no AGE-SECRET-KEY line; give the file made by `keygen` or `age-keygen`.")
    return identities


def seal(data: bytes, recipients: Sequence[str], *, armored: bool = False) -> bytes:
    """Data only the holders of the recipients' secret keys can open; `armored` is age's text form."""
    keys = [pyrage.x25519.Recipient.from_str(key) for key in recipients]
    sealed: bytes = pyrage.encrypt(data, keys, armored=armored)
    return sealed


def unseal(data: bytes, identities: Identities, source: Path | str) -> bytes:
    """Open sealed data; `source` is the file named when that fails."""
    try:
        opened: bytes = pyrage.decrypt(data, list(identities))
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise SealError(f"{source} is sealed for another key; give the identity it was sealed for.") from None
        raise SealError(f"{source} was altered or cut short; ask the site to send it again.") from None
    return opened
