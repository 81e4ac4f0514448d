"""Writing an export, image by image, so that a crash at any moment loses nothing that was acknowledged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.vault.atomic import Lock, make_folder
from msdino_monai.vault.ledger import Ledger
from msdino_monai.vault.manifest import ExportDescription, Manifest, canonical
from msdino_monai.vault.quantise import quantise
from msdino_monai.vault.seal import parse_recipients, seal
from msdino_monai.vault.shard import encode_table, random_rows
from msdino_monai.vault.signing import read_signing_key
from msdino_monai.vault.state import ExportState, ShardNote, StateError, refuse_overlap


class ExportWriter:
    """One run that adds images to an export; run again, it goes on where it stopped.

    Under torchrun rank 0 opens first (and recovers); the other ranks open after it with `takes_lock=False`.
    """

    def __init__(
        self,
        output_dir: str | Path,
        state_dir: str | Path,
        description: ExportDescription,
        *,
        recipients: str | Iterable[str] = (),
        signing_key: str | Path | None = None,
        images_per_shard: int = 256,
        order_recipients: str | Iterable[str] = (),
        takes_lock: bool = True,
    ) -> None:
        if images_per_shard < 1:
            raise ValueError(f"images_per_shard must be at least 1, got {images_per_shard}.")
        self.description = description
        self._recipients = parse_recipients(recipients)
        self._order_recipients = parse_recipients(order_recipients)
        key = None if signing_key is None else read_signing_key(signing_key)
        output_dir = Path(output_dir).expanduser().resolve()
        refuse_overlap(Path(state_dir), output_dir)
        self.state = ExportState(state_dir)
        self._ledger = Ledger(output_dir, self.state, key)
        with ExitStack() as locks:
            if takes_lock:
                locks.enter_context(self.state.lock_run())
                make_folder(output_dir)
                locks.enter_context(lock_export(output_dir))
            self.damaged = self._open(output_dir, signed=key is not None, recover=takes_lock)
            self._locks = locks.pop_all()
        self.finished = self._ledger.finished()
        self._seen = set(self.finished)
        self._buffer = _Buffer(description, images_per_shard, keeps_orders=bool(self._order_recipients))

    def _open(self, output_dir: Path, *, signed: bool, recover: bool) -> tuple[str, ...]:
        """Begin or resume the export; returns a line for each damaged shard that was dropped."""
        settings = {
            **self.description.settings(),
            "recipients": list(self._recipients),
            "order_recipients": list(self._order_recipients),
            "signed": signed,
        }
        before, begun = self.state.read_settings(), self._ledger.exists()
        if begun:
            if before is None:
                raise StateError(
                    f"{output_dir} was written with another state_dir than {self.state.folder}; give that."
                )
            refuse_other_settings(before, settings, output_dir)
        if not recover:
            if not begun:
                raise UserError(f"{output_dir} holds no export yet; the rank that takes the lock must open it first.")
            return ()
        if not begun:
            self._ledger.refuse_foreign_files()
        if before != settings:
            self.state.write_settings(settings)
        if not begun:
            self._ledger.create(self._empty_manifest())
        damaged = self._ledger.recover().damaged
        self._ledger.resign()
        return damaged

    def _empty_manifest(self) -> Manifest:
        details = {"embedder": self.description.embedder, "options": self.description.options}
        return Manifest(
            site_id=self.description.site_id,
            layout=self.description.layout,
            sealed=bool(self._recipients),
            # Which defences are on would tell an attacker which attack to choose.
            details=seal_details(details, self._recipients) if self._recipients else details,
            tools={"msdino_monai": __version__, "numpy": np.__version__, **self.description.tools},
        )

    def add(
        self,
        image: bytes,
        views: npt.NDArray[Any],
        *,
        orders: npt.NDArray[np.integer[Any]] | None = None,
        patient: bytes | None = None,
    ) -> None:
        """Add the shuffled views (V, K, D) of one image, under its salted id; commits a shard when one is full."""
        if image in self._seen:
            raise ValueError("this image is already in the export; skip the ids in `finished`.")
        if self.state.is_withdrawn(image) or (patient is not None and self.state.is_withdrawn(patient)):
            raise UserError("this patient has withdrawn; leave the image out.")
        if self._buffer.is_full:  # an earlier commit failed
            self.flush()
        self._buffer.add(image, views, orders, patient)
        self._seen.add(image)
        if self._buffer.is_full:
            self.flush()

    def flush(self) -> None:
        """Commit what is buffered as one shard."""
        if self._buffer.count == 0:
            return
        rows = random_rows(self._buffer.count)
        data = encode_table(self._buffer.table[rows])
        orders = None
        if self._buffer.orders is not None:
            orders = seal(encode_table(self._buffer.orders[rows]), self._order_recipients)
        if self._recipients:
            data = seal(data, self._recipients)
        self._ledger.commit(data, lambda sha256: self._buffer.note(sha256, rows), orders, sealed=bool(self._recipients))
        self._buffer.count = 0

    def close(self) -> None:
        """Commit the rest and let go of the folder."""
        try:
            self.flush()
        finally:
            self._locks.close()

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._locks.close()  # what is not committed is done again by the next run


class _Buffer:
    """The records of the shard in the making, in memory of a fixed size."""

    def __init__(self, description: ExportDescription, capacity: int, *, keeps_orders: bool) -> None:
        layout = description.layout
        self._dtype = layout.dtype
        self._shape = (layout.num_views, layout.kept_tokens, layout.embedding_dim)
        self.table = np.empty(capacity, layout.record)
        self.orders = None
        if keeps_orders:
            self.orders = np.empty(capacity, [("image", "V16"), ("orders", "<i4", self._shape[:2])])
        self._patients: list[str | None] = [None] * capacity
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count == len(self.table)

    def add(
        self,
        image: bytes,
        views: npt.NDArray[Any],
        orders: npt.NDArray[np.integer[Any]] | None,
        patient: bytes | None,
    ) -> None:
        if len(image) != 16 or (patient is not None and len(patient) != 16):
            raise ValueError("ids must be the 16 bytes of ExportState.salted_id.")
        if views.shape != self._shape:
            raise ValueError(f"views must have shape (V, K, D) = {self._shape}, got {views.shape}.")
        if self.orders is not None:
            if orders is None or orders.shape != self._shape[:2]:
                raise ValueError(f"orders (V, K) = {self._shape[:2]} must come with each image when they are kept.")
            self.orders[self.count] = (image, orders)
        tokens, scale = quantise(views, self._dtype)
        self.table[self.count] = (image, scale, tokens)
        self._patients[self.count] = None if patient is None else patient.hex()
        self.count += 1

    def note(self, sha256: str, rows: npt.NDArray[np.int64]) -> ShardNote:
        images = self.table["image"][rows]
        return ShardNote(
            sha256, tuple(image.tobytes().hex() for image in images), tuple(self._patients[row] for row in rows)
        )


def lock_export(output_dir: Path) -> Lock:
    """Held by the one run that may write into this export, whatever its state_dir."""
    return Lock(output_dir, busy=f"another run is writing to {output_dir}; wait until it ends.")


def seal_details(details: Mapping[str, Any], recipients: tuple[str, ...]) -> str:
    """The part of the manifest that describes the embedder and the options, as age text."""
    return seal(canonical(details), recipients, armored=True).decode("ascii")


def refuse_other_settings(before: Mapping[str, Any], now: Mapping[str, Any], output_dir: Path) -> None:
    """Name every setting that differs; an unsigned export may become a signed one."""
    old, new = _flat(before), _flat(now)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not old.get("signed"):
        names = [name for name in names if name != "signed"]
    if names:
        changes = "; ".join(
            f"{name} was {json.dumps(old.get(name))}, now {json.dumps(new.get(name))}" for name in names
        )
        raise StateError(
            f"settings differ from those {output_dir} was begun with: {changes}; restore them or name new folders."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
