"""What the attacker holds: an export as it was written, opened the way the coordinator opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.privacy.embedder import KnownEmbedder, rebuild
from msdino_monai.vault import TokenStore

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """Token sets (B, V, K, D) of an export, the salted ids of their images, and what the manifest says."""

    tokens: Floats
    image_ids: tuple[bytes, ...]
    embedder: KnownEmbedder
    noise: float
    dtype: str
    details: dict[str, Any]  # what is sealed inside the manifest

    def __len__(self) -> int:
        return len(self.tokens)


def open_evidence(
    export_dir: str | Path,
    *,
    identity: str | Path | None = None,
    trusted_sites: str | Path | None = None,
    cache_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    limit: int | None = None,
) -> Evidence:
    """Read at most `limit` images through the token store, with the coordinator's identity if the export is sealed.

    An export that nobody signed is taken, too: an attacker does not mind.
    """
    store = TokenStore(
        export_dir,
        identity=identity,
        trusted_sites=trusted_sites,
        allow_unsigned=True,
        cache_dir=cache_dir,
    )
    count = len(store) if limit is None else min(limit, len(store))
    images = np.arange(count)
    views = [store.gather(images, np.full(count, view)) for view in range(store.num_views)]
    options = dict(store.manifests()[0]["options"])
    return Evidence(
        tokens=np.stack(views, 1).astype(np.float32),  # V x (B, K, D) -> (B, V, K, D)
        image_ids=tuple(image.tobytes() for image in store.image_ids[:count]),
        embedder=rebuild(store.embedder, checkpoint),
        noise=float(options.get("noise", 0.0)),
        dtype="float16" if store.dtype == np.float16 else "int8",
        details={"embedder": dict(store.embedder), "options": options},
    )
