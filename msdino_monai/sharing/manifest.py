"""A package's manifest: every file with its size and hash, signed like the manifest of an export."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.vault.manifest import canonical
from msdino_monai.vault.signing import SigningKey, check_public_key, verifies

MANIFEST_FILE = "manifest.json"
FORMAT = "msdino_monai bundle"
FORMAT_VERSION = 1

_DOMAIN = b"msdino_monai bundle\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of a package, by its path in the bundle."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackageManifest:
    """What a package holds, which versions made it, and who says so."""

    name: str
    version: str
    files: tuple[FileEntry, ...]
    tools: Mapping[str, str] = field(default_factory=dict)
    public_key: str | None = None
    signature: str | None = None

    def content(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "tools": dict(self.tools),
            "files": [dict(vars(entry)) for entry in self.files],
        }

    def signed(self, key: SigningKey | None) -> PackageManifest:
        """The same with a signature, or with none."""
        if key is None:
            return replace(self, public_key=None, signature=None)
        return replace(self, public_key=key.public, signature=key.sign(_DOMAIN + canonical(self.content())))

    def signed_by(self, public_key: str) -> bool:
        return self.signature is not None and verifies(public_key, _DOMAIN + canonical(self.content()), self.signature)

    def encode(self) -> bytes:
        """The bytes of the file: content, signature, and a checksum that finds accidents where nobody signed."""
        signature = None if self.signature is None else {"public_key": self.public_key, "value": self.signature}
        stored = {**self.content(), "signature": signature}
        stored["sha256"] = hashlib.sha256(canonical(stored)).hexdigest()
        return (json.dumps(stored, indent=1) + "\n").encode("ascii")


def read_manifest(data: bytes, source: str) -> PackageManifest:
    """Read strictly: every byte is what we would have written, or an error."""
    try:
        stored = json.loads(data)
        if stored["format"] == FORMAT and stored["format_version"] != FORMAT_VERSION:
            known = f"only {FORMAT_VERSION} is known here"
            raise UserError(f"{source}: format version {stored['format_version']}, {known}; update msdino_monai.")
        signature = stored["signature"] or {"public_key": None, "value": None}
        if signature["public_key"] is not None:
            check_public_key(signature["public_key"], source)
        manifest = PackageManifest(
            name=stored["name"],
            version=stored["version"],
            files=tuple(_entry(each) for each in stored["files"]),
            tools=stored["tools"],
            public_key=signature["public_key"],
            signature=signature["value"],
        )
        if manifest.encode() != data:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{source} was altered or is no package's manifest; get the package again.") from None
    return manifest


def _entry(stored: Mapping[str, Any]) -> FileEntry:
    size, sha256 = stored["bytes"], stored["sha256"]
    if type(size) is not int or size < 0 or not isinstance(stored["file"], str) or not _SHA256.fullmatch(sha256):
        raise ValueError
    return FileEntry(stored["file"], size, sha256)
