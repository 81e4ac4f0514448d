"""What an export would take, before anything is written."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from msdino_monai.exporting.handler import ExportHandler
from msdino_monai.exporting.views import views_as_batch
from msdino_monai.vault import ExportState
from msdino_monai.vault.atomic import make_private_folder
from msdino_monai.vault.ledger import Ledger


class DryRun:
    """Reads every image as the export would, embeds it, and throws the tokens away.

    Args:
        loader: batches of views.
        handler: the export that is planned; it is not opened.
        network: the patch embedding.
    """

    def __init__(self, loader: Iterable[Mapping[str, Any]], handler: ExportHandler, network: torch.nn.Module) -> None:
        self.loader, self.handler, self.network = loader, handler, network

    def run(self) -> None:
        """Print how many files are usable, how large the export will be, how long it will take, and what is free."""
        images, handler = self.handler.images, self.handler
        state = ExportState(images.quarantine.quarantined.parent.parent)
        ledger = Ledger(handler.output_dir, state, None)
        if not ledger.exists():
            ledger.refuse_foreign_files()
        make_private_folder(images.quarantine.quarantined.parent)
        images.quarantine.clear()
        finished = {bytes.fromhex(id_) for note in state.read_notes().values() for id_ in note.images}
        total = len(images.data)
        remaining = images.leave_out(finished, state)
        usable, start = 0, time.perf_counter()
        progress = tqdm(total=remaining, desc="dry run", unit=" images", disable=not sys.stderr.isatty())
        device = next(self.network.buffers()).device
        with torch.inference_mode(), progress:
            for batch in self.loader:
                tokens = self.network(views_as_batch(batch, device)[0])
                usable += len(tokens) // handler.num_views
                progress.update(len(tokens) // handler.num_views)
        seconds = time.perf_counter() - start
        size = usable * handler.description.layout.record.itemsize
        free = shutil.disk_usage(existing_parent(handler.output_dir)).free
        others = f" ({total - remaining} others are finished, withdrawn, or copies)" if total > remaining else ""
        print(f"{usable} of {remaining} files are usable{others}.")
        print(f"The export will take {size / 1e6:.1f} MB of {free / 1e6:.0f} MB free, and about {seconds:.0f} s.")
        if size > free:
            print(
                f"NOT ENOUGH SPACE in {handler.output_dir}: free {(size - free) / 1e6:.0f} MB, or name another folder."
            )


def existing_parent(path: Path) -> Path:
    """The nearest folder that is already there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
