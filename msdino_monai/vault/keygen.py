"""The verb `keygen`: key pairs for the coordinator, for a site, and for a site's kept orders."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import make_folder, write_file
from msdino_monai.vault.signing import SITE_ID, SigningKey, secret_text

KINDS = ("coordinator", "site", "orders")


def keygen(output_dir: str, kind: str, name: str = "") -> None:
    """Make key pairs; secrets are readable by you alone, nothing is overwritten.

    --kind coordinator  an age pair hospitals seal for, and a signing pair for receipts
    --kind site         a signing pair for a hospital's exports; --name is its site_id
    --kind orders       an age pair a hospital keeps its own token orders with
    """
    if kind not in KINDS:
        raise UserError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    name = str(name) or kind
    if not SITE_ID.fullmatch(name):
        raise UserError(f"--name must be letters, digits, - and _ (at most 64), got {name!r}.")
    folder = Path(str(output_dir)).expanduser()
    make_folder(folder)
    if kind != "site":
        recipient = _write_age_pair(folder, name)
        use = "order_recipients" if kind == "orders" else "recipient"
        print(f"hospitals give: --{use} {recipient}" if kind == "coordinator" else f"give: --{use} {recipient}")
    if kind != "orders":
        public = _write_signing_pair(folder, name)
        if kind == "site":
            print(f"sign with: --signing_key {folder / f'{name}_signing_key.txt'}")
            print(f"the coordinator adds this line to trusted_sites: {name} {public}")
        else:
            print(f"hospitals check receipts with: {public}")
    print(f"secret keys lie in {folder}; keep a copy where only you can read it, and send nobody but the public parts.")


def _write_age_pair(folder: Path, name: str) -> str:
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    secret = f"# public key: {recipient}\n{identity}\n".encode()
    write_file(folder / f"{name}_identity.txt", secret, private=True, replace=False)
    write_file(folder / f"{name}_recipient.txt", f"{recipient}\n".encode(), replace=False)
    return recipient


def _write_signing_pair(folder: Path, name: str) -> str:
    seed = os.urandom(32)
    public = SigningKey(seed).public
    write_file(folder / f"{name}_signing_key.txt", secret_text(seed).encode(), private=True, replace=False)
    write_file(folder / f"{name}_signing_key.pub", f"{public}\n".encode(), replace=False)
    return public
