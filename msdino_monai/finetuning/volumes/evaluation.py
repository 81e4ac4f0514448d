"""Every volume of an evaluation scored on the grid of its file: a table, a summary with intervals, and pictures."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Orientation

from msdino_monai.distributed import barrier, gather_objects, rank
from msdino_monai.errors import UserError
from msdino_monai.finetuning.report import write_csv, write_json
from msdino_monai.finetuning.segmentation.evaluation import POLICY, in_words, summarise
from msdino_monai.finetuning.segmentation.task import Task
from msdino_monai.finetuning.volumes.overlay import draw_slices
from msdino_monai.finetuning.volumes.score import score_volume
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.volume import read_volume, read_volume_mask
from msdino_monai.vault.atomic import make_folder, write_file

_log = logging.getLogger(__name__)
Row = dict[str, Any]
_FILES = ("image_file", "mask")  # where a case's own files are; not for the report
_IN_VOXELS = {"truth_pixels": "truth_voxels", "predicted_pixels": "predicted_voxels"}


class VolumeEvaluation:
    """Scores each mask the evaluator leaves in `pred` against the one in the item's `mask`, and reports at the end.

    Writes `cases.csv`, `metrics.json` and the overlays of the best, the median and the worst case.

    Args:
        output_dir: where to.
        task: the classes.
        window: what makes an image's values [0, 1], for the overlays.
        orientation: how slices are shown, see `Orientationd`.
        quarantine: emptied when a run begins.
        min_overlap: share of a lesion that must be predicted for it to count as found.
        repeats: draws of the bootstrap; patients are drawn, not volumes.
        seed: of the bootstrap.
        about: what else the summary says: model, version, data.
    """

    def __init__(
        self,
        output_dir: str | Path,
        task: Task,
        window: Callable[[dict[str, Any]], Mapping[Any, Any]],
        orientation: str,
        quarantine: Quarantine,
        min_overlap: float = 0.1,
        repeats: int = 1000,
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 < min_overlap <= 1:
            raise ValueError(f"min_overlap must be in (0, 1], got {min_overlap}.")
        self.output_dir, self.task, self.quarantine = Path(output_dir).expanduser(), task, quarantine
        self.window, self.upright = window, Orientation(axcodes=orientation, labels=None)
        self.min_overlap, self.repeats, self.seed, self.about = min_overlap, repeats, seed, dict(about or {})
        self.rows: list[Row] = []
        self._decided: dict[str, tuple[bytes, tuple[int, ...]]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def begin(self, _: Engine) -> None:
        self.rows.clear()
        self._decided.clear()
        if rank() == 0:
            self.quarantine.clear()
        barrier()

    def add(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            decided = output["pred"].cpu()
            truth = read_volume_mask(item["mask"], decided, len(self.task.classes))
            spacing = np.linalg.norm(np.asarray(decided.affine)[:3, :3], axis=0).tolist()
            layers = zip(self.task.classes, self._layers(decided), self._layers(truth), strict=True)
            for name, ours, theirs in layers:
                found = score_volume(ours, theirs, spacing, self.min_overlap)
                case = {"file": item["file"], "patient": item["patient"], "class": name}
                files = {key: item[key] for key in _FILES}
                self.rows.append({**case, **vars(found), "unit": "mm", **files})
            numbers = decided.as_tensor().numpy().astype(np.uint8)
            self._decided[item["file"]] = zlib.compress(numbers.tobytes(), level=1), numbers.shape

    def report(self, engine: Engine) -> None:
        rows = sorted(gather_objects(self.rows), key=lambda row: str(row["file"]))  # classes stay in order
        if not rows:
            raise UserError(f"no volume could be used; {self.quarantine.quarantined} says why.")
        summary = summarise(rows, self.task.classes, self.repeats, self.seed)
        if summary["mean_dice"]["value"] is not None:
            engine.state.metrics["mean_dice"] = summary["mean_dice"]["value"]
        self._draw(rows)
        if rank() > 0:
            return
        kept = [name for name in rows[0] if name not in _FILES]
        table = [{_IN_VOXELS.get(name, name): row[name] for name in kept} for row in rows]
        write_csv(self.output_dir / "cases.csv", table)
        said = {"lesion found at overlap": self.min_overlap, "bootstrap draws": self.repeats, "seed": self.seed}
        policy = {**POLICY, "distances": "in mm", **said}
        write_json(self.output_dir / "metrics.json", {**self.about, **summary, "policy": policy})
        _log.info("%s", in_words(summary))

    def _layers(self, numbers: torch.Tensor) -> npt.NDArray[np.bool_]:
        plain = numbers.as_tensor() if isinstance(numbers, MetaTensor) else numbers
        return np.asarray(self.task.layers(plain).numpy())

    def _draw(self, rows: Sequence[Row]) -> None:
        """Each rank draws the cases it has seen."""
        for name, (row, dice) in extremes(rows).items():
            if row["file"] not in self._decided:
                continue
            packed, shape = self._decided[row["file"]]
            numbers = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(shape)
            image = read_volume(row["image_file"])
            truth = read_volume_mask(row["mask"], image, len(self.task.classes))
            predicted = MetaTensor(torch.from_numpy(numbers.astype(np.float32)), affine=image.affine)
            upright = [self._layers(self.upright(each)) for each in (predicted, truth)]
            volume = self.window({"image": self.upright(image)})["image"]
            picture = draw_slices(
                volume.as_tensor()[0].numpy(),
                upright[0],
                upright[1],
                self.task.classes,
                f"{name} case: {row['file']}, Dice {dice:.3f}",
            )
            make_folder(self.output_dir)
            write_file(self.output_dir / f"overlay_{name}.png", picture)


def extremes(rows: Sequence[Row]) -> dict[str, tuple[Row, float]]:
    """One row of the best, the median and the worst case by mean Dice; cases without any class are none of them."""
    defined: dict[str, list[Row]] = {}
    for row in rows:
        if math.isfinite(row["dice"]):
            defined.setdefault(row["file"], []).append(row)
    means = [(each[0], float(np.mean([row["dice"] for row in each]))) for each in defined.values()]
    ranked = sorted(means, key=lambda case: case[1])
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]} if ranked else {}
