"""The verb `receive`: the coordinator checks an export whole and gives the hospital a receipt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import make_folder, read_file, write_file
from msdino_monai.vault.export import Export, PlaintextCache
from msdino_monai.vault.manifest import MANIFEST_FILE, canonical, decode_manifest
from msdino_monai.vault.signing import (
    SigningKey,
    read_public_key,
    read_signing_key,
    read_trusted_sites,
    verifies,
)
from msdino_monai.vault.store import find_exports

_DOMAIN = b"msdino_monai receipt\n"


class ReceiptError(UserError):
    """A receipt that does not fit the export, or that the coordinator did not sign."""


def receive(
    export_dir: str,
    output_file: str,
    identity: str | None = None,
    trusted_sites: str | None = None,
    allow_unsigned: bool = False,
    signing_key: str | None = None,
    cache_dir: str | None = None,
) -> None:
    """Check one export whole (signature, every shard, every record) and write a receipt for the hospital.

    --identity opens sealed shards, in memory; with --cache_dir what is unsealed is kept there for training.
    --signing_key signs the receipt with the coordinator's own key.
    """
    key = None if signing_key is None else read_signing_key(signing_key)
    (folder,) = find_exports(str(export_dir))[:1]
    if folder.resolve() != Path(str(export_dir)).expanduser().resolve():
        raise ReceiptError(f"{export_dir} holds several exports; receive one at a time, for example {folder}.")
    export = Export(
        folder,
        identity=identity,
        trusted_sites=None if trusted_sites is None else read_trusted_sites(trusted_sites),
        allow_unsigned=allow_unsigned,
        cache=None if cache_dir is None else PlaintextCache(cache_dir),
    )
    check_every_image(export)
    receipt = make_receipt(export, key)
    path = Path(output_file).expanduser()
    make_folder(path.parent)
    write_file(path, (json.dumps(receipt, indent=1) + "\n").encode("ascii"))
    print(f"{export.manifest.images} images of {export.manifest.site_id} are whole; receipt: {output_file}")


def check_every_image(export: Export) -> None:
    """Open every shard and see that no image is there twice."""
    ids = [np.zeros(0, "V16"), *(np.array(export.table(i)["image"]) for i in range(len(export.manifest.shards)))]
    if len(np.unique(np.concatenate(ids).view("S16"))) != export.manifest.images:
        raise ReceiptError(f"{export.folder} holds an image twice; ask the site to export again.")


def make_receipt(export: Export, signing_key: SigningKey | None) -> dict[str, Any]:
    """What was received, signed by the coordinator if it has a key."""
    manifest = export.manifest
    receipt: dict[str, Any] = {
        "site_id": manifest.site_id,
        "revision": manifest.revision,
        "manifest_sha256": export.manifest_sha256,
        "counts": manifest.content()["counts"],
        "is_verified": export.is_verified,
        "received_with": __version__,
    }
    if signing_key is not None:
        signature = signing_key.sign(_DOMAIN + canonical(receipt))
        receipt["signature"] = {"public_key": signing_key.public, "value": signature}
    return receipt


def check_receipt(
    receipt: str | Path, export_dir: str | Path, coordinator_key: str | Path | None = None
) -> dict[str, Any]:
    """The hospital's side: the receipt if it is for this very export and, given a key, signed with it."""
    path = Path(receipt).expanduser()
    try:
        stored = json.loads(read_file(path.resolve()))
        signature = stored.pop("signature", None)
        given = stored["manifest_sha256"], stored["site_id"], stored["revision"], stored["counts"]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ReceiptError(f"{path} is not a receipt; ask the coordinator to send it again.") from None
    source = Path(export_dir).expanduser().resolve() / MANIFEST_FILE
    data = read_file(source)
    manifest = decode_manifest(data, source)
    expected = hashlib.sha256(data).hexdigest(), manifest.site_id, manifest.revision, manifest.content()["counts"]
    if given != expected:
        raise ReceiptError(f"{path} is for another state of the export than {source}; send the export again.")
    if coordinator_key is not None and not _is_signed(stored, signature, read_public_key(coordinator_key)):
        raise ReceiptError(f"{path} is not signed with the coordinator's key; ask the coordinator.")
    return dict(stored)


def confirm(receipt: str, export_dir: str, coordinator_key: str | None = None) -> None:
    """At the hospital: check that a receipt is for this very export and, with --coordinator_key, that it is genuine.

    --coordinator_key is the ed25519:... line of the coordinator, or the file that holds it; without it anybody could
    have written the receipt.
    """
    confirmed = check_receipt(receipt, export_dir, coordinator_key)
    by = "the coordinator" if coordinator_key is not None else "somebody (give --coordinator_key to know who)"
    count = confirmed["counts"]["images"]
    print(f"{by} received revision {confirmed['revision']} of {confirmed['site_id']} whole: {count} images.")


def _is_signed(receipt: Mapping[str, Any], signature: Any, public_key: str) -> bool:
    value = signature.get("value") if isinstance(signature, dict) else None
    return isinstance(value, str) and verifies(public_key, _DOMAIN + canonical(receipt), value)
