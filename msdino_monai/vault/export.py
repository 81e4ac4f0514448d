"""One received export: its manifest believed or refused, its shards checked before they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import hash_file, make_private_folder, read_file, write_file
from msdino_monai.vault.ledger import problem_of
from msdino_monai.vault.manifest import MANIFEST_FILE, Manifest, ManifestError, ShardEntry, decode_manifest
from msdino_monai.vault.seal import read_identities, unseal
from msdino_monai.vault.shard import Table, decode_table
from msdino_monai.vault.signing import SignatureError


class ShardError(UserError):
    """A shard that is missing, altered or not what the manifest says."""


class PlaintextCache:
    """Unsealed shards in a private folder, named by the hash of what was sealed and of what came out."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()

    def find(self, sealed_sha256: str) -> Path | None:
        """An earlier plaintext, if it is still what it was."""
        found = (self.folder / sealed_sha256).glob("*.npy")
        return next((path for path in found if hash_file(path) == path.stem), None)

    def keep(self, sealed_sha256: str, plaintext: bytes) -> Path:
        path = self.folder / sealed_sha256 / f"{hashlib.sha256(plaintext).hexdigest()}.npy"
        for folder in (self.folder, path.parent):
            make_private_folder(folder)
        write_file(path, plaintext, private=True)
        return path


class Export:
    """A folder with `manifest.json` and `shards/`, as a site sent it."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: str | Path | None = None,
        trusted_sites: Mapping[str, str] | None = None,
        allow_unsigned: bool = False,
        cache: PlaintextCache | None = None,
    ) -> None:
        self.folder = folder.resolve()
        source = self.folder / MANIFEST_FILE
        data = read_file(source)
        self.manifest = decode_manifest(data, source)
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        self.is_verified = check_signature(self.manifest, source, trusted_sites, allow_unsigned=allow_unsigned)
        if self.manifest.sealed and identity is None:
            raise UserError(f"{source} is sealed; give the identity file it was sealed for.")
        if cache is not None and cache.folder.is_relative_to(self.folder):
            raise UserError(f"cache_dir {cache.folder} lies inside the export {self.folder}; name a folder outside.")
        self._identity = identity
        self._cache = cache
        self._checked: dict[int, Path] = {}
        self.details = self._read_details(source)

    def _read_details(self, source: Path) -> Mapping[str, Any]:
        """The embedder's description and the options; sealed ones are opened."""
        details: Any = self.manifest.details
        if self.manifest.sealed:
            opened = unseal(details.encode(), read_identities(self._identity or ""), source)
            try:
                details = json.loads(opened)
            except ValueError:
                details = None
        embedder = details.get("embedder") if isinstance(details, dict) else None
        if not isinstance(embedder, dict) or embedder.get("sha256") != self.manifest.layout.embedder_sha256:
            raise ManifestError(f"{source} describes another embedder than it names; ask the site to export again.")
        return dict(details)

    def table(self, index: int) -> Table:
        """The records of one shard, memory-mapped; checked against the manifest when first touched."""
        shard = self.manifest.shards[index]
        path = self.folder / shard.file
        source: Path | bytes | None = self._checked.get(index)
        if source is None:
            problem = problem_of(self.folder, shard)
            if problem is not None:
                raise ShardError(f"{problem}; ask the site to send it again.")
            source = self._open_sealed(shard, path) if self.manifest.sealed else path
            if isinstance(source, Path):
                self._checked[index] = source
        return decode_table(source, self.manifest.layout.record, shard.images, path)

    def _open_sealed(self, shard: ShardEntry, path: Path) -> Path | bytes:
        cached = self._cache.find(shard.sha256) if self._cache else None
        if cached is not None:
            return cached
        plaintext = unseal(read_file(path), read_identities(self._identity or ""), path)
        return self._cache.keep(shard.sha256, plaintext) if self._cache else plaintext


def check_signature(
    manifest: Manifest, source: Path, trusted_sites: Mapping[str, str] | None, *, allow_unsigned: bool
) -> bool:
    """Whether a trusted site signed the manifest; refused if none did, unless `allow_unsigned`."""
    site, trusted = manifest.site_id, (trusted_sites or {}).get(manifest.site_id)
    if trusted is not None and manifest.signed_by(trusted):
        return True
    if allow_unsigned:
        return False
    if manifest.signature is None:
        raise SignatureError(f"{source} is not signed; ask {site} to sign it, or set allow_unsigned to take it anyway.")
    if trusted is None:
        raise SignatureError(
            f"{source}: site {site} is not in trusted_sites; add its public key once the site has confirmed it."
        )
    if manifest.public_key != trusted:
        raise SignatureError(f"{source} is signed with another key than trusted_sites lists for {site}; ask the site.")
    raise SignatureError(f"{source}: the signature of {site} is wrong; ask the site to send it again.")
