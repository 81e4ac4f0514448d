"""Who made it: Ed25519 signatures, and the coordinator's list of sites it trusts."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import read_file

SITE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PUBLIC_PREFIX = "ed25519:"
SECRET_PREFIX = "ED25519-SECRET-KEY:"  # noqa: S105 (a prefix, not a key)


class SignatureError(UserError):
    """A signature or signing key that cannot be accepted."""


class SigningKey:
    """A site's or the coordinator's secret signing key."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PUBLIC_PREFIX + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, message: bytes) -> str:
        return base64.b64encode(self._key.sign(message)).decode()


def secret_text(seed: bytes) -> str:
    """The key file's text."""
    return f"# public key: {SigningKey(seed).public}\n{SECRET_PREFIX}{base64.b64encode(seed).decode()}\n"


def read_signing_key(path: str | Path) -> SigningKey:
    """The secret key in a file made by `keygen`."""
    path = Path(path).expanduser()
    wrong = SignatureError(f"{path} is not a signing key; give the _signing_key.txt file made by `keygen`.")
    try:
        lines = read_file(path.resolve()).decode("ascii").splitlines()
        (line,) = (line.strip() for line in lines if line.strip() and not line.startswith("#"))
        if not line.startswith(SECRET_PREFIX):
            raise wrong
        return SigningKey(base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True))
    except ValueError:  # not text, not one line, not base64, not 32 bytes
        raise wrong from None


def check_public_key(text: str, source: Path | str) -> str:
    """The text if it is `ed25519:<base64 of 32 bytes>`."""
    try:
        if not text.startswith(PUBLIC_PREFIX) or len(_decode(text.removeprefix(PUBLIC_PREFIX))) != 32:
            raise binascii.Error
    except (binascii.Error, ValueError):
        raise SignatureError(f"{source}: no public key of the form ed25519:<base64>; copy it from `keygen`.") from None
    return text


def verifies(public_key: str, message: bytes, signature: str) -> bool:
    """Whether the holder of `public_key` signed `message`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(public_key.removeprefix(PUBLIC_PREFIX)))
        key.verify(_decode(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_public_key(key: str | Path) -> str:
    """A public key given as its own text or as the file that holds it."""
    text = str(key)
    if text.startswith(PUBLIC_PREFIX):
        return check_public_key(text, "the key given")
    path = Path(text).expanduser()
    return check_public_key(read_file(path.resolve()).decode("utf-8", "replace").strip(), path)


def read_trusted_sites(path: str | Path) -> dict[str, str]:
    """`<site_id> ed25519:<base64>` on each line; `#` starts a comment."""
    path = Path(path).expanduser()
    sites: dict[str, str] = {}
    for number, line in enumerate(read_file(path.resolve()).decode("utf-8", "replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path} line {number}"
        if len(words) != 2 or not SITE_ID.fullmatch(words[0]):
            raise SignatureError(f"{where}: write `<site_id> ed25519:<base64>`.")
        if words[0] in sites:
            raise SignatureError(f"{where}: site {words[0]} is listed twice; keep one line.")
        sites[words[0]] = check_public_key(words[1], where)
    return sites


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
