"""The course of a fine-tuning: a row of `curves.csv` for every epoch."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from msdino_monai.distributed import rank, sum_across_ranks, world_size
from msdino_monai.table import as_csv
from msdino_monai.vault.atomic import make_folder, write_file


class Curves:
    """Writes epoch, mean training loss, the validation's metrics (`val_...`), learning rate and seconds.

    Attach it behind MONAI's `ValidationHandler` and before the checkpoint. A training that goes on keeps the rows of
    the epochs it does not do again.

    Args:
        evaluator: whose metrics are written, in the epochs it ran.
        output_dir: where `curves.csv` goes.
    """

    def __init__(self, evaluator: Engine, output_dir: str | Path) -> None:
        self.evaluator, self.path = evaluator, Path(str(output_dir)).expanduser() / "curves.csv"
        self.rows: list[dict[str, float]] = []
        self._losses: list[torch.Tensor] = []
        self._started = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._go_on)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._add)

    def _go_on(self, engine: Engine) -> None:
        self.rows = []
        if engine.state.epoch and self.path.is_file():
            rows = _read(self.path)
            self.rows = [row for row in rows if row["epoch"] <= engine.state.epoch]

    def _start(self, _: Engine) -> None:
        self._losses.clear()
        self._started = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        self._losses.append(engine.state.output["loss"].detach())

    def _add(self, engine: Engine) -> None:
        row = {"epoch": float(engine.state.epoch)}
        if self._losses:
            row["loss"] = float(sum_across_ranks(torch.stack(self._losses).double().mean())) / world_size()
        if self.evaluator.state.epoch == engine.state.epoch:  # it ran after this epoch
            row |= _numbers(self.evaluator.state.metrics)
        row["learning_rate"] = max(float(group["lr"]) for group in engine.optimizer.param_groups)
        row["seconds"] = time.perf_counter() - self._started
        self.rows.append(row)
        if rank() == 0:
            make_folder(self.path.parent)
            write_file(self.path, as_csv(self.rows).encode())


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Single figures that are defined, all named as validation's."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1):
            found[name if name.startswith("val_") else f"val_{name}"] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _read(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
