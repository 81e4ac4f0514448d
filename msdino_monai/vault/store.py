"""The token store: the exports of all sites as one indexed, memory-mapped data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import UserError
from msdino_monai.vault.export import Export, PlaintextCache
from msdino_monai.vault.manifest import MANIFEST_FILE
from msdino_monai.vault.shard import Table
from msdino_monai.vault.signing import read_trusted_sites

_log = logging.getLogger(__name__)

Indices = npt.ArrayLike


class StoreError(UserError):
    """Exports that cannot be opened as one store."""


class TokenStore:
    """All images of one or many exports, ordered by site, then by shard.

    `paths` is an export, a folder of exports, or a list of such. Sealed exports need `identity` and a private
    `cache_dir` for what is unsealed. `verify="full"` checks every shard on opening, `"lazy"` each when first touched.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        identity: str | Path | None = None,
        trusted_sites: str | Path | None = None,
        allow_unsigned: bool = False,
        verify: Literal["full", "lazy"] = "full",
        cache_dir: str | Path | None = None,
    ) -> None:
        if verify not in ("full", "lazy"):
            raise ValueError(f"verify must be 'full' or 'lazy', got {verify!r}.")
        trusted = None if trusted_sites is None else read_trusted_sites(trusted_sites)
        cache = None if cache_dir is None else PlaintextCache(cache_dir)
        self._exports = [
            Export(folder, identity=identity, trusted_sites=trusted, allow_unsigned=allow_unsigned, cache=cache)
            for folder in find_exports(paths)
        ]
        refuse_mixture(self._exports)
        note_other_options(self._exports)
        if cache is None and any(export.manifest.sealed for export in self._exports):
            raise StoreError(
                "sealed exports need a cache_dir for what is unsealed; name a private folder outside them."
            )
        self._shards = [(export, i) for export in self._exports for i in range(len(export.manifest.shards))]
        counts = [shard.images for export in self._exports for shard in export.manifest.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        self._tables: list[Table | None] = [None] * len(self._shards)
        if len(self) == 0:
            raise StoreError(f"{self._exports[0].folder} holds no images; ask the site to export again.")
        if verify == "full":
            for index in range(len(self._shards)):
                self._table(index)

    def __len__(self) -> int:
        """The number of images."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_views(self) -> int:
        return self._exports[0].manifest.layout.num_views

    @property
    def num_tokens(self) -> int:
        """N, the tokens of the full grid."""
        return self._exports[0].manifest.layout.num_tokens

    @property
    def kept_tokens(self) -> int:
        """K <= N, the tokens each set holds, as `gather` returns them."""
        return self._exports[0].manifest.layout.kept_tokens

    @property
    def embedding_dim(self) -> int:
        return self._exports[0].manifest.layout.embedding_dim

    @property
    def embedder(self) -> dict[str, Any]:
        """The description of the embedder all sites used, its `sha256` included."""
        return dict(self._exports[0].details["embedder"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `gather` returns: float16 payloads as they lie, int8 restored to float32."""
        return np.dtype(np.float16 if self._exports[0].manifest.layout.dtype == "float16" else np.float32)

    @property
    def sites(self) -> tuple[tuple[str, int], ...]:
        """Each site and its number of images, in index order."""
        return tuple((export.manifest.site_id, export.manifest.images) for export in self._exports)

    @property
    def image_ids(self) -> npt.NDArray[np.void]:
        """The salted id of every image (reads all shards)."""
        return np.concatenate([self._table(index)["image"] for index in range(len(self._shards))])

    def manifests(self) -> list[dict[str, Any]]:
        """What a model trained on this store should record of each export."""
        return [
            {
                "site_id": export.manifest.site_id,
                "manifest_sha256": export.manifest_sha256,
                "revision": export.manifest.revision,
                "images": export.manifest.images,
                "is_verified": export.is_verified,
                "embedder_sha256": export.manifest.layout.embedder_sha256,
                "options": export.details.get("options", {}),
            }
            for export in self._exports
        ]

    def gather(
        self, images: Indices, views: Indices | None = None, *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """The token sets (B, K, D) of images (B,), each in one of its views (B,), by default the first.

        Rows are copied straight from the memory maps in the order they lie on disk. Page faults on fresh memory cost
        as much as the copy itself, so a training loop gives the same `out` again and again.
        """
        images = self._checked_indices(images, len(self), "images")
        views = np.zeros_like(images) if views is None else self._checked_indices(views, self.num_views, "views")
        if views.shape != images.shape:
            raise ValueError(f"views {views.shape} must match images {images.shape}.")
        if out is None:
            out = np.empty((len(images), self.kept_tokens, self.embedding_dim), self.dtype)
        elif out.shape != (len(images), self.kept_tokens, self.embedding_dim):
            raise ValueError(f"out must have shape {(len(images), self.kept_tokens, self.embedding_dim)}.")
        order = np.argsort(images, kind="stable")
        shards = np.searchsorted(self._ends, images[order], side="right")
        rows = images[order] - self._starts[shards]
        self._copy(out, zip(order.tolist(), shards.tolist(), rows.tolist(), views[order].tolist(), strict=True))
        return out

    def _copy(self, out: npt.NDArray[Any], places: Iterator[tuple[int, int, int, int]]) -> None:
        has_scale = self._exports[0].manifest.layout.dtype == "int8"
        current, tokens, scale = -1, np.empty(0), np.empty(0)
        for place, shard, row, view in places:
            if shard != current:
                table = self._table(shard)
                current, tokens, scale = shard, table["tokens"], table["scale"]
            if has_scale:
                np.multiply(tokens[row, view], scale[row, view], out=out[place], dtype=np.float32, casting="same_kind")
            else:
                out[place] = tokens[row, view]

    def _checked_indices(self, indices: Indices, limit: int, name: str) -> npt.NDArray[np.int64]:
        array = np.asarray(indices)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} must be a list of whole numbers, got {array.dtype} of shape {array.shape}.")
        if array.size and (array.min() < 0 or array.max() >= limit):
            raise IndexError(f"{name} must be in [0, {limit}), got {array.min()} to {array.max()}.")
        return array.astype(np.int64)

    def _table(self, index: int) -> Table:
        table = self._tables[index]
        if table is None:
            export, number = self._shards[index]
            table = self._tables[index] = export.table(number)
        return table

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps stay behind: a spawned worker opens its own, and need not check again what was checked."""
        return {**self.__dict__, "_tables": [None] * len(self._tables)}


def find_exports(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The export folders named by, or directly inside, each path."""
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise StoreError(f"{folder} is no folder; name the folder a site sent.")
        is_export = (folder / MANIFEST_FILE).exists()
        inside = [folder] if is_export else sorted(file.parent for file in folder.glob(f"*/{MANIFEST_FILE}"))
        if not inside:
            raise StoreError(f"{folder} holds no export (no {MANIFEST_FILE}); name the folder a site sent.")
        if not is_export:
            _refuse_half_arrived(folder, inside)
        found += inside
    if not found:
        raise StoreError("no export is named; name the folders the sites sent.")
    return found


def _refuse_half_arrived(folder: Path, inside: list[Path]) -> None:
    """A manifest is written, and should be sent, last; without it a hospital would be left out without a word."""
    for part in sorted(shards.parent for shards in folder.glob("*/shards")):
        is_state = (part / "salt").exists()  # what a hospital keeps has shards of its own
        if part not in inside and not is_state:
            raise StoreError(f"{part} has shards but no {MANIFEST_FILE}; copy it whole, or move it away.")


def refuse_mixture(exports: list[Export]) -> None:
    """Exports of one store agree on everything but the site."""
    first, seen = exports[0], dict[str, Export]()
    for export in exports:
        site = export.manifest.site_id
        if site in seen:
            raise StoreError(
                f"site {site} is named twice: {seen[site].folder} and {export.folder}; keep the newer one."
            )
        seen[site] = export
        ours, theirs = asdict(first.manifest.layout), asdict(export.manifest.layout)
        for name in (name for name in ours if ours[name] != theirs[name]):
            raise StoreError(
                f"exports differ in {name}: {ours[name]} in {first.folder}, {theirs[name]} in {export.folder}; "
                "train on them apart or ask one site to export again."
            )


def note_other_options(exports: list[Export]) -> None:
    """Say which options of the defence differ: tokens fit together, but hospitals are not hidden alike."""
    first = exports[0]
    ours = first.details.get("options", {})
    for export in exports[1:]:
        theirs = export.details.get("options", {})
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                _log.warning(
                    "exports differ in %s: %s of site %s, %s of site %s; that may be meant.",
                    name, ours.get(name), first.manifest.site_id, theirs.get(name), export.manifest.site_id,
                )  # fmt: skip
