"""The course of a training: a row per epoch, as metrics, a CSV and a picture."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.metrics import compute_embedding_collapse

from msdino_monai.distributed import gather_across_ranks, rank, sum_across_ranks, world_size
from msdino_monai.pretraining.loss import Terms
from msdino_monai.table import as_csv, columns
from msdino_monai.vault.atomic import make_folder, write_file

_log = logging.getLogger(__name__)
FEATURE_ROWS = 512


class Curves:
    """Means over each epoch and all ranks go to `engine.state.metrics`, where MONAI's handlers find them.

    Beside the loss and its terms: the norm of the gradient, what is scheduled, images per second, and
    `feature_rank`, the effective rank of the teacher's last class tokens (from MONAI's embedding collapse metric).
    Attach it before the handlers that add metrics of their own or show them.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(len(Terms._fields) + 1, dtype=torch.float64)
        self._count, self._steps = 0, 0
        self._pending: list[torch.Tensor] = []
        self._features: list[torch.Tensor] = []
        self._started, self._images = time.perf_counter(), 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarise)

    def _start(self, _: Engine) -> None:
        self._started, self._images = time.perf_counter(), 0

    def _collect(self, engine: Engine) -> None:
        output = engine.state.output
        self._pending.append(torch.stack([*output["terms"], output["gradient_norm"]]))
        self._steps += int(output["stepped"])
        self._images += len(output["batch"]["index"]) * world_size()
        self._features.append(gather_across_ranks(output["teacher_features"]))
        while sum(map(len, self._features[1:])) >= FEATURE_ROWS:
            del self._features[0]

    def _settle(self) -> None:
        """Add up what iterations left on the device: once per epoch or checkpoint, not once per iteration."""
        if self._pending:
            self._sums += sum_across_ranks(torch.stack(self._pending).double().sum(0)).cpu() / world_size()
            self._count += len(self._pending)
            self._pending.clear()

    def _summarise(self, engine: Engine) -> None:
        self._settle()
        means = (self._sums / torch.tensor([*[self._count] * len(Terms._fields), self._steps]).clamp_min(1)).tolist()
        seconds = max(time.perf_counter() - self._started, 1e-9)
        engine.state.metrics |= {
            **dict(zip((*Terms._fields, "gradient_norm"), means, strict=True)),
            **engine.state.schedule,
            "feature_rank": feature_rank(torch.cat([rows.cpu() for rows in self._features])),
            "images_per_second": self._images / seconds,
            "seconds": seconds,
        }
        self._sums.zero_()
        self._count, self._steps = 0, 0

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        features = [rows.cpu() for rows in self._features]
        return {"sums": self._sums.clone(), "count": self._count, "steps": self._steps, "features": features}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self._count, self._steps = state["sums"].clone(), int(state["count"]), int(state["steps"])
        self._pending, self._features = [], list(state["features"])


def feature_rank(features: torch.Tensor) -> float:
    """Effective rank (arXiv 2210.02885) of features (R, H): 0 if all are equal, min(R - 1, H) at most."""
    score = compute_embedding_collapse(features, include_indicators=["effective_rank"])["effective_rank_score"]
    return (1.0 - float(score)) * min(len(features) - 1, features.shape[1])


class CurvesFile:
    """Keeps every epoch's metrics, writes them as a CSV after each and as a picture at the end of a run."""

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir).expanduser()
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self.draw)
        engine.add_event_handler(Events.TERMINATE, self.draw)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._draw_and_raise)

    def _add(self, engine: Engine) -> None:
        metrics = {name: float(value) for name, value in engine.state.metrics.items()}
        self.rows.append({"epoch": engine.state.epoch, **metrics})
        if rank() == 0:
            make_folder(self.folder)
            write_file(self.folder / "curves.csv", as_csv(self.rows).encode())
        _log.info("%s", self._line(engine))

    def _line(self, engine: Engine) -> str:
        row, last = self.rows[-1], int(engine.state.max_epochs or 0)
        seconds = (last - row["epoch"]) * row["seconds"]
        shown = ("loss", "kl", "teacher_entropy", "feature_rank", "knn_auc", "linear_auc")
        words = [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in shown if name in row]
        remaining = f"{row['images_per_second']:.0f} images/s, {timedelta(seconds=round(seconds))} left"
        return f"Epoch {engine.state.epoch}/{last}: {', '.join(words)}; {remaining}."

    def draw(self, _: Engine) -> None:
        if self.rows and rank() == 0 and find_spec("matplotlib"):
            write_file(self.folder / "curves.png", as_picture(self.rows))

    def _draw_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.draw(engine)
        raise error

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]


def as_picture(rows: list[dict[str, float]]) -> bytes:
    """A PNG of small multiples, one per column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in columns(rows) if name != "epoch"]
    figure = Figure(figsize=(14, 2.2 * math.ceil(len(names) / 4)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(math.ceil(len(names) / 4), 4, place)
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
