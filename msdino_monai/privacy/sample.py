"""A sample of the hospital's images, really exported, and opened again as the coordinator would open it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyrage  # type: ignore[import-untyped]

from msdino_monai.exporting.audit import audited_settings
from msdino_monai.privacy.evidence import Evidence, open_evidence
from msdino_monai.privacy.header import read_header
from msdino_monai.privacy.leak import file_leaks, row_leaks, rows_by_date
from msdino_monai.privacy.order import true_orders
from msdino_monai.privacy.pool import ExportBundle, Pool, Radiograph
from msdino_monai.privacy.truth import read_orders
from msdino_monai.vault.atomic import make_private_folder, write_file
from msdino_monai.vault.signing import secret_text

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_IMAGES_PER_SHARD = 8  # so that a sample has several shards, whose order could tell something
_OTHER_DRAW = 1_000_003  # far from any seed a user gives


class Repeatable:
    """Random bytes by a seed in place of the operating system's, so that a second audit augments the same way."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, count: int) -> bytes:
        return self._generator.bytes(count)


@dataclass(frozen=True)
class Sample:
    """What was written, and what it is judged by; all rows in the order of the pool's images.

    Args:
        evidence: what the attacker holds.
        orders: where each token truly lies (B, V, K).
        views: the augmented views (B, V, H, W) that were embedded.
        radiographs: the images before augmentation, and whose they are.
        file_leaks: what the files tell beside tokens, in words: extra bytes, names, the order of the images.
        augment: the export's augmentation.
        settings: what an audit speaks of.
        again: the same images, exported once more by another site.
    """

    evidence: Evidence
    orders: Integers
    views: Floats
    radiographs: tuple[Radiograph, ...]
    file_leaks: tuple[str, ...]
    augment: Callable[[Any], Any]
    settings: dict[str, Any]
    again: Sample | None = None

    def __len__(self) -> int:
        return len(self.evidence)

    @property
    def pictures(self) -> Floats:
        """The radiographs (B, H, W) as somebody has them who has the files."""
        return np.stack([image.picture for image in self.radiographs])

    def __getitem__(self, images: slice) -> Sample:
        evidence = _select(self.evidence, list(range(len(self)))[images])
        parts = {name: getattr(self, name)[images] for name in ("orders", "views", "radiographs")}
        again = None if self.again is None else self.again[images]
        return replace(self, evidence=evidence, again=again, **parts)


def write_sample(bundle: ExportBundle, pool: Pool, dataset_dir: str | Path, folder: Path, seed: int = 0) -> Sample:
    """Run the export of the pool's sample twice into `folder`, sealed to keys thrown away with it; open and sort both.

    Shuffles come from the operating system as ever. Augmentation, noise and dropped tokens come from the seed. Another
    site with the same images writes the second export: a shuffle that is no secret shows when it is drawn again.
    """
    make_private_folder(folder)
    first = _write(bundle, pool, dataset_dir, folder / "first", seed, seed)
    second = _write(bundle, pool, dataset_dir, folder / "second", seed, seed + _OTHER_DRAW, site_id="audit_again")
    return replace(first, again=second)


def _write(
    bundle: ExportBundle, pool: Pool, dataset_dir: str | Path, folder: Path, seed: int, draw: int, **given: Any
) -> Sample:
    """One export; augmentation is drawn by `draw`."""
    make_private_folder(folder)
    coordinator, orders = _new_key(folder / "coordinator.txt"), _new_key(folder / "orders.txt")
    export, state, views = folder / "export", folder / "state", folder / "views"
    make_private_folder(state)
    # Images are exported in the order of their salted ids.
    write_file(state / "salt", hashlib.sha256(f"audit {seed}".encode()).digest(), private=True)
    items = [{"image": image.file, "patient": image.patient} for image in pool.exported]
    (folder / "datalist.json").write_text(json.dumps({"training": items}), encoding="utf-8")
    parser = bundle.parser(
        dataset_dir=str(dataset_dir),
        datalist=str(folder / "datalist.json"),
        output_dir=str(export),
        state_dir=str(state),
        recipient=coordinator,
        order_recipients=orders,
        signing_key=str(_new_signing_key(folder / "signing_key.txt")),
        view_randomness=Repeatable(draw),
        dry_run=False,
        require_audit=False,
        images_per_shard=_IMAGES_PER_SHARD,
        **given,
    )
    recorder = {"_target_": "msdino_monai.privacy.truth.RecordViewsd", "keys": "image", "folder": str(views)}
    parser["preprocessing#transforms"] = [*parser["preprocessing#transforms"], recorder]
    for part in ("initialize", "run"):
        parser.get_parsed_content(part)
    checkpoint = bundle.settings.get("embedder_checkpoint")
    evidence = open_evidence(
        export, identity=folder / "coordinator.txt", cache_dir=folder / "unsealed", checkpoint=checkpoint
    )
    exported = parser.get_parsed_content("dataset").data  # without copies and files that were refused
    ids = {str(item["image"]): bytes.fromhex(item["image_id"]) for item in exported}
    names = {image_id: file for file, image_id in ids.items()}
    keys = _row_keys([names[image] for image in evidence.image_ids], pool, Path(str(dataset_dir)))
    leaks = row_leaks(keys, rows_by_date(export))
    identifiers = {part for image in pool.exported for part in (Path(image.file).stem, image.patient)}
    leaks += file_leaks(export, folder / "unsealed", identifiers, evidence.details)
    radiographs = tuple(image for image in pool.exported if ids.get(image.file) in evidence.image_ids)
    evidence = _select(evidence, [evidence.image_ids.index(ids[image.file]) for image in radiographs])
    recorded = np.stack([np.load(views / f"{image.hex()}.npy") for image in evidence.image_ids])
    kept = read_orders(state, folder / "orders.txt")
    return Sample(
        evidence=evidence,
        orders=true_orders(evidence.tokens, recorded, evidence.embedder, kept, evidence.image_ids),
        views=recorded,
        radiographs=radiographs,
        file_leaks=tuple(leaks),
        augment=parser.get_parsed_content("augment"),
        settings=audited_settings(parser.get_parsed_content("export").description),
    )


def _row_keys(files: Sequence[str], pool: Pool, dataset_dir: Path) -> dict[str, list[Any]]:
    """What somebody could sort the files by, so that the order of the rows would tell it."""
    pictures = {image.file: image.picture for image in pool.exported}
    dates = [read_header(dataset_dir / file).get("date", "") for file in files]
    return {"names": list(files), "dates": dates, "brightness": [float(pictures[file].mean()) for file in files]}


def _select(evidence: Evidence, places: list[int]) -> Evidence:
    return replace(
        evidence, tokens=evidence.tokens[places], image_ids=tuple(evidence.image_ids[place] for place in places)
    )


def _new_key(path: Path) -> str:
    """A key for this sample alone; its public part."""
    identity = pyrage.x25519.Identity.generate()
    write_file(path, f"{identity}\n".encode(), private=True)
    return str(identity.to_public())


def _new_signing_key(path: Path) -> Path:
    """Without one the export would make its own, and tell the user to have it trusted."""
    write_file(path, secret_text(os.urandom(32)).encode(), private=True)
    return path


def rearrange(tokens: Floats, orders: Integers, seed: int = 0) -> tuple[Floats, Integers]:
    """Views (V, K, D) and their orders (V, K), in an order that depends on the tokens alone.

    An attacker may put tokens into any order before it begins; so the secret shuffle cannot change what it finds.
    """
    generator = np.random.default_rng(seed)
    places = np.stack([np.lexsort(view.T[::-1])[generator.permutation(len(view))] for view in tokens])
    return np.take_along_axis(tokens, places[:, :, None], 1), np.take_along_axis(orders, places, 1)
