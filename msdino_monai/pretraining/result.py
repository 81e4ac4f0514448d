"""What goes back to the hospitals: the teacher's body, and what it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msdino_monai.backbone import save_backbone
from msdino_monai.distributed import rank
from msdino_monai.networks import ViTBody
from msdino_monai.plain import plain
from msdino_monai.pretraining.labelled import embedding_of
from msdino_monai.vault import TokenStore
from msdino_monai.vault.signing import read_signing_key

_log = logging.getLogger(__name__)


def check_result(store: TokenStore, embedder_checkpoint: str | None = None, signing_key: str | None = None) -> None:
    """Refuse before the training what `save_result` could not use after it."""
    if rank() > 0:
        return
    if signing_key is not None:
        read_signing_key(signing_key)
    if "seed" in store.embedder or embedder_checkpoint:
        embedding_of(store.embedder, embedder_checkpoint)


def save_result(
    folder: str | Path,
    body: ViTBody,
    store: TokenStore,
    settings: Mapping[str, Any],
    epochs: int,
    iterations: int,
    embedder_checkpoint: str | None = None,
    signing_key: str | None = None,
) -> None:
    """`model.pt`, `model.safetensors` and the JSON that says what they are, signed if there is a key.

    The embedder's weights go along where they can be drawn again: then the file turns images into features by itself.
    """
    if rank() > 0:
        return
    state: dict[str, torch.Tensor] = {f"body.{name}": tensor for name, tensor in body.state_dict().items()}
    if "seed" in store.embedder or embedder_checkpoint:
        state["embedding.weight"] = embedding_of(store.embedder, embedder_checkpoint).weight
    description = {
        "body": body.sizes(),
        "embedder": store.embedder,
        "sites": store.manifests(),
        "settings": plain(settings),
        "trained": {"epochs": epochs, "iterations": iterations, "images": len(store)},
    }
    path = save_backbone(Path(folder).expanduser(), state, description, signing_key=signing_key)
    _log.info("The pretrained body of %d images from %d sites: %s", len(store), len(store.sites), path)
