"""The site's own signing key, made the first time it is needed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from msdino_monai.vault.atomic import write_file
from msdino_monai.vault.signing import SigningKey, secret_text
from msdino_monai.vault.state import ExportState

logger = logging.getLogger("msdino_monai.export")


def own_signing_key(state_dir: str | Path, site_id: str) -> Path:
    """The key in `state_dir`; made there if it is missing, with the line the coordinator needs to trust it."""
    path = signing_key_in(ExportState(state_dir).folder)
    if not path.exists():
        seed = os.urandom(32)
        write_file(path, secret_text(seed).encode(), private=True, replace=False)
        logger.warning(
            "Made a signing key. Tell the coordinator, for trusted_sites: %s %s", site_id, SigningKey(seed).public
        )
    return path


def signing_key_in(state_dir: str | Path) -> Path:
    """Where `own_signing_key` keeps it."""
    return Path(state_dir).expanduser() / "signing_key.txt"
