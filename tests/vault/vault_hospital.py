"""A small hospital that exports, and the keys it and the coordinator use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msdino_monai.vault import ExportDescription, ExportState, ExportWriter

EMBEDDER = hashlib.sha256(b"an embedder").hexdigest()
SHAPE = (2, 6, 8)  # V, K, D


def views_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal(SHAPE).astype(np.float16)


def describe(**changes: Any) -> ExportDescription:
    settings: dict[str, Any] = {
        "site_id": "hospital_a",
        "embedder": {"kind": "orthonormal", "seed": 7, "sha256": EMBEDDER},
        "num_tokens": SHAPE[1],
        "embedding_dim": SHAPE[2],
        "num_views": SHAPE[0],
        "options": {"margin": 2, "noise": 0.0},
    }
    return ExportDescription(**{**settings, **changes})


@dataclass
class Hospital:
    """One site: where it exports to, what it keeps, and with which settings."""

    output_dir: Path
    state_dir: Path
    settings: dict[str, Any] = field(default_factory=dict)
    writing: dict[str, Any] = field(default_factory=dict)

    def writer(self, **changes: Any) -> ExportWriter:
        writing = {"images_per_shard": 4, **self.writing, **changes}
        return ExportWriter(self.output_dir, self.state_dir, describe(**self.settings), **writing)

    def run(self, images: Iterable[int] = range(10), **changes: Any) -> ExportWriter:
        """The same command each time: skip what is finished, leave out who withdrew, add the rest."""
        with self.writer(**changes) as writer:
            for index in images:
                image = writer.state.salted_id(f"image {index}", "image")
                patient = writer.state.salted_id(f"patient {index // 2}", "patient")
                if image not in writer.finished and not writer.state.is_withdrawn(patient):
                    writer.add(image, views_of(index), patient=patient)
        return writer

    def image_id(self, index: int) -> bytes:
        return ExportState(self.state_dir).salted_id(f"image {index}", "image")

    def shards(self) -> list[Path]:
        return sorted((self.output_dir / "shards").iterdir())


@dataclass(frozen=True)
class Keys:
    folder: Path

    identity = property(lambda self: self.folder / "coordinator_identity.txt")
    recipient = property(lambda self: (self.folder / "coordinator_recipient.txt").read_text().strip())
    signing_key = property(lambda self: self.folder / "hospital_a_signing_key.txt")
    trusted_sites = property(lambda self: self.folder / "trusted_sites")


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
