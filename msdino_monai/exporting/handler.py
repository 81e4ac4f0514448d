"""The MONAI handler that turns an evaluator's output into an export."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from msdino_monai.distributed import barrier
from msdino_monai.errors import UserError
from msdino_monai.exporting.defences import Defences
from msdino_monai.exporting.images import ImagesToExport
from msdino_monai.exporting.keys import own_signing_key
from msdino_monai.exporting.withdraw import remember_command
from msdino_monai.networks import PatchEmbedding
from msdino_monai.vault import ExportDescription, ExportWriter

logger = logging.getLogger("msdino_monai.export")


class ExportHandler:
    """Shuffles the tokens of every batch and commits them, shard by shard.

    Attach it to an evaluator whose network is the embedding and whose loader walks `images`. Images that an earlier
    run finished are skipped. What is buffered when a run dies was never acknowledged, and is done again.

    Args:
        output_dir: the export; the only folder that leaves the hospital.
        state_dir: salt, finished list and notes; stays in the hospital.
        site_id: how the coordinator knows the hospital.
        images: the data set the evaluator's loader iterates.
        embedding: the frozen network.
        defences: noise and token drop.
        num_views: augmented views of each image.
        dtype: `float16`, or `int8` for half the size.
        recipients: age public keys the export is sealed for; none leaves it readable by anyone.
        signing_key: the site's Ed25519 key; without one, a key is made in `state_dir` and used from then on.
        order_recipients: age public keys of the hospital's own, to keep the shuffles; none discards them.
        options: further settings that two runs into one folder must agree on.
    """

    def __init__(
        self,
        output_dir: str | Path,
        state_dir: str | Path,
        site_id: str,
        images: ImagesToExport,
        embedding: PatchEmbedding,
        defences: Defences,
        num_views: int = 1,
        dtype: str = "float16",
        recipients: Sequence[str] = (),
        signing_key: str | Path | None = None,
        order_recipients: Sequence[str] = (),
        images_per_shard: int = 256,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.images, self.defences, self.num_views = images, defences, num_views
        self._sealed = bool(recipients)
        self.keeps_orders = bool(order_recipients)
        self.description = ExportDescription(
            site_id=site_id,
            embedder=embedding.describe(),
            num_tokens=embedding.num_tokens,
            embedding_dim=embedding.embedding_dim,
            kept_tokens=defences.kept_tokens(embedding.num_tokens),
            num_views=num_views,
            dtype=dtype,
            options={**defences.describe(), **(options or {})},
            tools={"monai": monai.__version__, "torch": torch.__version__},
        )
        self.output_dir = Path(output_dir)

        def open_writer() -> ExportWriter:
            return ExportWriter(
                output_dir,
                state_dir,
                self.description,
                recipients=recipients,
                signing_key=signing_key or own_signing_key(state_dir, site_id),
                images_per_shard=images_per_shard,
                order_recipients=order_recipients,
                takes_lock=images.rank == 0,
            )

        self._open_writer = open_writer
        self.exported = 0
        self.writer: ExportWriter
        self.progress: tqdm[Any]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add_batch)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def begin(self, engine: Engine) -> None:
        """Open the export, and leave to this run what is not finished."""
        if not self._sealed:
            logger.warning("No recipient is given: the export is not sealed, and whoever gets it can read it.")
        self.writer = self._open_in_turn()
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)
        total = len(self.images.data)
        remaining = self.images.leave_out(self.writer.finished, self.writer.state)
        barrier()  # all ranks have read the same list of finished images before one of them adds to it
        logger.info(
            "%d images: %d finished earlier (or withdrawn, or copies), %d to do.", total, total - remaining, remaining
        )
        share = -(-remaining // self.images.world_size)
        self.progress = tqdm(total=share, desc="export", unit=" images", disable=not sys.stderr.isatty())

    def _open_in_turn(self) -> ExportWriter:
        """Rank 0 recovers what an earlier run left; the others open after it."""
        if self.images.rank > 0:
            barrier()
            return self._open_writer()
        writer = self._open_writer()
        remember_command(writer.state, self.description)
        self.images.quarantine.clear(keep_flags=bool(writer.finished))
        barrier()
        return writer

    def add_batch(self, engine: Engine) -> None:
        """Tokens (B * V, N, D) of a batch, shuffled view by view, go to the writer."""
        batch, tokens = engine.state.batch, engine.state.output["pred"].float().cpu()
        tokens = tokens.unflatten(0, (-1, self.num_views)).numpy()  # (B * V, N, D) -> (B, V, N, D)
        state = self.writer.state
        for views, image_id, patient in zip(tokens, batch["image_id"], batch["patient"], strict=True):
            patient_id = state.salted_id(patient, "patient") if patient else None
            if patient_id is not None and state.is_withdrawn(patient_id):
                continue
            self.exported += 1
            shuffled, orders = self.defences.apply(views)
            self.writer.add(
                bytes.fromhex(image_id),
                shuffled,
                orders=orders if self.keeps_orders else None,
                patient=patient_id,
            )
        self.progress.update(len(tokens))

    def finish(self, _: Engine) -> None:
        """Commit the rest; rank 0 holds the folder until everybody has."""
        self.progress.close()
        self.writer.flush()
        barrier()
        self.writer.close()
        if self.images.world_size == 1 and not self.writer.finished and not self.exported:
            raise UserError(f"no image could be used; {self.images.quarantine.quarantined} says why.")
        logger.info("The export in %s is complete.", self.output_dir)

    def give_up(self, _: Engine, error: BaseException) -> None:
        """Let go of the folder; finished shards stay, the same command goes on from there."""
        self.progress.close()
        self.writer.__exit__(type(error), error, None)
        raise error
