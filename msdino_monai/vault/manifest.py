"""The manifest: what an export holds, checksummed and signed, and nothing that tells of a patient."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.vault.quantise import DTYPES
from msdino_monai.vault.shard import SHARD_FILE, SHARD_FOLDER, record_dtype
from msdino_monai.vault.signing import SITE_ID, SigningKey, verifies

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

_DOMAIN = b"msdino_monai export manifest\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(UserError):
    """A manifest that is damaged, unknown or not to be believed."""


@dataclass(frozen=True)
class Layout:
    """The shape of every record: all exports of one store must agree on it."""

    embedder_sha256: str
    num_tokens: int
    kept_tokens: int
    embedding_dim: int
    num_views: int
    dtype: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.embedder_sha256):
            raise ValueError("the embedder's sha256 must be 64 lower-case hexadecimal digits.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        sizes = {"num_tokens": self.num_tokens, "embedding_dim": self.embedding_dim, "num_views": self.num_views}
        for name, size in sizes.items():
            if not 1 <= size < 2**20:
                raise ValueError(f"{name} must be in [1, 2^20), got {size}.")
        if not 1 <= self.kept_tokens <= self.num_tokens:
            raise ValueError(f"kept_tokens must be in [1, {self.num_tokens}], got {self.kept_tokens}.")

    @property
    def record(self) -> Any:
        """The numpy dtype of one image."""
        return record_dtype(self.num_views, self.kept_tokens, self.embedding_dim, self.dtype)


@dataclass(frozen=True)
class ExportDescription:
    """What a hospital decides about an export before the first image.

    `embedder` describes the frozen patch embedder and holds its `sha256`; `options` are the defences in use. Both are
    plain JSON and must not tell of any patient, file or date. `tools` (name: version) may differ between two runs.
    """

    site_id: str
    embedder: Mapping[str, Any]
    num_tokens: int
    embedding_dim: int
    kept_tokens: int | None = None
    num_views: int = 1
    dtype: str = "float16"
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.site_id, str) or not SITE_ID.fullmatch(self.site_id):
            raise ValueError(f"site_id must be letters, digits, - and _ (at most 64), got {self.site_id!r}.")
        for name in ("embedder", "options", "tools"):
            object.__setattr__(self, name, json.loads(canonical(getattr(self, name))))  # a tuple equals its list
        object.__setattr__(self, "kept_tokens", self.num_tokens if self.kept_tokens is None else self.kept_tokens)
        self.layout  # noqa: B018 (refuses impossible sizes now)

    @property
    def layout(self) -> Layout:
        return Layout(
            embedder_sha256=str(self.embedder.get("sha256")),
            num_tokens=self.num_tokens,
            kept_tokens=self.kept_tokens or self.num_tokens,
            embedding_dim=self.embedding_dim,
            num_views=self.num_views,
            dtype=self.dtype,
        )

    @property
    def bytes_per_image(self) -> int:
        """What one image adds to the export, but for headers and seals (below 1 %)."""
        return int(self.layout.record.itemsize)

    def settings(self) -> dict[str, Any]:
        """Everything two runs into one folder must agree on."""
        settings = asdict(self)
        del settings["tools"]
        return settings


@dataclass(frozen=True)
class ShardEntry:
    """One shard as it lies in the export."""

    file: str
    bytes: int
    sha256: str
    images: int

    @property
    def name(self) -> str:
        """The random part of the file's name."""
        return self.file.removeprefix(f"{SHARD_FOLDER}/").split(".")[0]


@dataclass(frozen=True)
class Manifest:
    """A committed state of an export. `details` holds `embedder` and `options`, as age text when sealed."""

    site_id: str
    layout: Layout
    sealed: bool
    details: Mapping[str, Any] | str
    tools: Mapping[str, str]
    shards: tuple[ShardEntry, ...] = ()
    revision: int = 0
    public_key: str | None = None
    signature: str | None = None

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)

    def with_shards(self, shards: tuple[ShardEntry, ...]) -> Manifest:
        """The next revision, with these shards in a stable order."""
        ordered = tuple(sorted(shards, key=lambda shard: shard.file))
        return replace(self, shards=ordered, revision=self.revision + 1)

    def content(self) -> dict[str, Any]:
        """What is signed."""
        size = sum(shard.bytes for shard in self.shards)
        return {
            "format_version": FORMAT_VERSION,
            "site_id": self.site_id,
            "revision": self.revision,
            **asdict(self.layout),
            "sealed": self.sealed,
            "details": self.details,
            "tools": dict(self.tools),
            "counts": {"images": self.images, "shards": len(self.shards), "bytes": size},
            "shards": [dict(vars(shard)) for shard in self.shards],
        }

    def signed(self, signing_key: SigningKey | None) -> Manifest:
        """This state of the export with the site's signature, or with none."""
        if signing_key is None:
            return replace(self, public_key=None, signature=None)
        signature = signing_key.sign(_DOMAIN + canonical(self.content()))
        return replace(self, public_key=signing_key.public, signature=signature)

    def encode(self) -> bytes:
        """The bytes of manifest.json: content, signature, and a checksum over both."""
        signature = None
        if self.signature is not None:
            signature = {"public_key": self.public_key, "value": self.signature}
        return _readable(_with_checksum({**self.content(), "signature": signature}))

    def signed_by(self, public_key: str) -> bool:
        """Whether the holder of this key signed this site's content."""
        return self.signature is not None and verifies(public_key, _DOMAIN + canonical(self.content()), self.signature)


def canonical(value: Any) -> bytes:
    """One byte string for one JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_manifest(data: bytes, source: Path) -> Manifest:
    """Read manifest.json strictly: every byte is either what we would have written or an error."""
    try:
        stored = json.loads(data)
        if not isinstance(stored, dict):
            raise TypeError
        version = stored.get("format_version")
        if isinstance(version, int) and version != FORMAT_VERSION and _readable(_with_checksum(stored)) == data:
            raise ManifestError(
                f"{source}: format version {version} is not known here (only {FORMAT_VERSION}); update msdino_monai."
            )
        manifest = _parse(stored, source)
        if manifest.encode() != data:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ManifestError(f"{source} was altered or cut short; ask the site to send it again.") from None
    return manifest


def _parse(stored: Mapping[str, Any], source: Path) -> Manifest:
    sealed, details = stored["sealed"], stored["details"]
    if type(sealed) is not bool or not isinstance(details, str if sealed else dict):
        raise ValueError
    shards = []
    for entry in stored["shards"]:
        folder, _, name = str(entry["file"]).partition("/")
        match = SHARD_FILE.fullmatch(name)
        if folder != SHARD_FOLDER or match is None or bool(match[1]) != sealed:
            raise ManifestError(f"{source} names a file outside its shards: {entry['file']!r}; do not use this export.")
        size, images = _count(entry["bytes"]), _count(entry["images"])
        shards.append(ShardEntry(entry["file"], size, _text(entry["sha256"], _SHA256), images))
    if len({shard.file for shard in shards}) != len(shards):
        raise ManifestError(f"{source} names a shard twice; do not use this export.")
    sizes = {name: _count(stored[name]) for name in ("num_tokens", "kept_tokens", "embedding_dim", "num_views")}
    signature = stored["signature"] or {"public_key": None, "value": None}
    return Manifest(
        site_id=_text(stored["site_id"], SITE_ID),
        layout=Layout(embedder_sha256=stored["embedder_sha256"], dtype=stored["dtype"], **sizes),
        sealed=sealed,
        details=details,
        tools=stored["tools"],
        shards=tuple(shards),
        revision=_count(stored["revision"]),
        public_key=signature["public_key"],
        signature=signature["value"],
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:  # True is an int, too
        raise ValueError
    return value


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(value):
        raise ValueError
    return str(value)


def _with_checksum(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Accidents are caught by a checksum even where nobody signed; malice is caught by the signature."""
    content = {name: value for name, value in stored.items() if name != "sha256"}
    return {**content, "sha256": hashlib.sha256(canonical(content)).hexdigest()}


def _readable(stored: Mapping[str, Any]) -> bytes:
    """One field a line and one shard a line: people read it, and tools compare it."""
    encode = json.JSONEncoder(allow_nan=False).encode
    fields = []
    for name, value in stored.items():
        shards = ",\n  ".join(map(encode, value)) if name == "shards" else ""
        fields.append(f"{encode(name)}: " + (f"[\n  {shards}\n ]" if shards else encode(value)))
    return ("{\n " + ",\n ".join(fields) + "\n}\n").encode("ascii")
