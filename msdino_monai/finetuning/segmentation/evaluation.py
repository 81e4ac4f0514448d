"""Every case of an evaluation scored on the grid of its file: a table, a summary with intervals, and pictures."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events

from msdino_monai.distributed import barrier, gather_objects, rank
from msdino_monai.errors import UserError
from msdino_monai.finetuning.intervals import Rows, bootstrap_intervals
from msdino_monai.finetuning.report import write_csv, write_json
from msdino_monai.finetuning.segmentation.mask import read_mask
from msdino_monai.finetuning.segmentation.overlay import draw_overlay
from msdino_monai.finetuning.segmentation.score import score
from msdino_monai.finetuning.segmentation.task import Task
from msdino_monai.images.geometry import spacing_in_mm
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.vault.atomic import make_folder, write_file

_log = logging.getLogger(__name__)
Row = dict[str, Any]
_FILES = ("image_file", "mask")  # where a case's own files are; not for the report
Table = npt.NDArray[np.float64]  # (cases, classes)

POLICY = {
    "class absent and not predicted": "left out of the mean of Dice, and counted under absent",
    "class absent but predicted": "Dice 0, distances undefined",
    "class there but not predicted": "Dice 0, distances undefined",
    "distances": "in mm where the header says how large a pixel is, else in pixels",
}


class Evaluation:
    """Scores each mask the evaluator leaves in `pred` against the one in the item's `mask`, and reports at the end.

    Writes `cases.csv`, `metrics.json` and the overlays of the best, the median and the worst case.

    Args:
        output_dir: where to.
        task: the classes.
        load: how images are read, for the overlays.
        quarantine: emptied when a run begins.
        min_overlap: share of a lesion that must be predicted for it to count as found.
        repeats: draws of the bootstrap; patients are drawn, not images.
        seed: of the bootstrap.
        about: what else the summary says: model, version, data.
    """

    def __init__(
        self,
        output_dir: str | Path,
        task: Task,
        load: LoadRadiograph,
        quarantine: Quarantine,
        min_overlap: float = 0.1,
        repeats: int = 1000,
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 < min_overlap <= 1:
            raise ValueError(f"min_overlap must be in (0, 1], got {min_overlap}.")
        self.output_dir, self.task, self.load = Path(output_dir).expanduser(), task, load
        self.quarantine = quarantine
        self.min_overlap, self.repeats, self.seed, self.about = min_overlap, repeats, seed, dict(about or {})
        self.rows: list[Row] = []
        self._layers: dict[str, tuple[bytes, tuple[int, ...]]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def begin(self, _: Engine) -> None:
        self.rows.clear()
        self._layers.clear()
        if rank() == 0:
            self.quarantine.clear()
        barrier()

    def add(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            predicted = self.task.layers(output["pred"].as_tensor()).cpu().numpy()
            truth = self.truth(item["image_file"], item["mask"], predicted.shape[1:])
            spacing = spacing_in_mm(item["image_file"])
            for name, ours, theirs in zip(self.task.classes, predicted, truth, strict=True):
                found = score(ours, theirs, spacing, self.min_overlap)
                unit = "mm" if spacing else "pixels"
                case = {"file": item["file"], "patient": item["patient"], "class": name}
                files = {name: item[name] for name in _FILES}
                self.rows.append({**case, **vars(found), "unit": unit, **files})
            packed = zlib.compress(np.packbits(predicted).tobytes(), level=1)
            self._layers[item["file"]] = packed, predicted.shape

    def truth(self, image: str, mask: str, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
        numbers = read_mask(mask, image, shape, self.task.allowed())
        return np.asarray(self.task.layers(self.task.encode(torch.from_numpy(numbers))).numpy())

    def report(self, engine: Engine) -> None:
        rows = sorted(gather_objects(self.rows), key=lambda row: str(row["file"]))  # classes stay in order
        if not rows:
            raise UserError(f"no image could be used; {self.quarantine.quarantined} says why.")
        summary = summarise(rows, self.task.classes, self.repeats, self.seed)
        if summary["mean_dice"]["value"] is not None:
            engine.state.metrics["mean_dice"] = summary["mean_dice"]["value"]
        self._draw(_extremes(rows))
        if rank() > 0:
            return
        columns = [name for name in rows[0] if name not in _FILES]
        write_csv(self.output_dir / "cases.csv", rows, columns)
        said = {"lesion found at overlap": self.min_overlap, "bootstrap draws": self.repeats, "seed": self.seed}
        write_json(self.output_dir / "metrics.json", {**self.about, **summary, "policy": {**POLICY, **said}})
        _log.info("%s", in_words(summary))

    def _draw(self, extremes: Mapping[str, tuple[Row, float]]) -> None:
        """Each rank draws the cases it has seen."""
        for name, (row, dice) in extremes.items():
            if row["file"] not in self._layers:
                continue
            packed, shape = self._layers[row["file"]]
            bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), dtype=np.uint8), count=math.prod(shape))
            predicted = bits.reshape(shape).astype(bool)
            truth = self.truth(row["image_file"], row["mask"], shape[1:])
            caption = f"{name} case: {row['file']}, Dice {dice:.3f}"
            picture = draw_overlay(self.load, row["image_file"], predicted, truth, self.task.classes, caption)
            make_folder(self.output_dir)
            write_file(self.output_dir / f"overlay_{name}.png", picture)


def summarise(rows: Sequence[Row], classes: Sequence[str], repeats: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Means with 95 % intervals, for each class and over the classes; None is undefined.

    `rows` hold every case's classes one after the other.
    """
    count = len(rows) // len(classes)
    patients = [row["patient"] or row["file"] for row in rows[:: len(classes)]]
    dice = _table(rows, "dice", count)
    lesions, found, alarms = (_table(rows, name, count) for name in ("lesions", "found", "false_alarms"))
    truth, predicted = _table(rows, "truth_pixels", count), _table(rows, "predicted_pixels", count)
    units = np.array([row["unit"] for row in rows]).reshape(count, len(classes))

    def interval(table: Table, lower: Table | None = None) -> list[dict[str, Any]]:
        """The means over cases of each column, or the ratio of two sums, with intervals."""

        def figures(cases: Rows) -> Table:
            return _means(table[cases]) if lower is None else _ratios(table[cases], lower[cases])

        edges = bootstrap_intervals(figures, count, repeats=repeats, seed=seed, groups=patients)
        return [_figure(value, edge) for value, edge in zip(figures(np.arange(count)), edges, strict=True)]

    dices, sensitivities = interval(dice), interval(found, lesions)
    distance = {
        f"{name}_{unit}": interval(np.where(units == unit, _table(rows, name, count), np.nan))
        for name in ("hd95", "surface_distance")
        for unit in ("mm", "pixels")
        if (units == unit).any()
    }
    means = bootstrap_intervals(
        lambda cases: [_mean_of(dice[cases])], count, repeats=repeats, seed=seed, groups=patients
    )
    return {
        "cases": count,
        "patients": len(set(patients)),
        "mean_dice": _figure(_mean_of(dice), means[0]),
        "classes": {
            name: {
                "dice": dices[index],
                "cases": int(np.isfinite(dice[:, index]).sum()),
                "absent": int((~np.isfinite(dice[:, index])).sum()),
                "missed": int(((truth[:, index] > 0) & (predicted[:, index] == 0)).sum()),
                "false": int(((truth[:, index] == 0) & (predicted[:, index] > 0)).sum()),
                **{kind: figures[index] for kind, figures in distance.items()},
                "lesions": int(lesions[:, index].sum()),
                "lesion_sensitivity": sensitivities[index],
                "false_alarms_per_image": float(alarms[:, index].mean()),
            }
            for index, name in enumerate(classes)
        },
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """Dice of every class with its interval, for the log."""
    parts = [f"{name} {_shown(found['dice'])}" for name, found in summary["classes"].items()]
    return f"Dice over {summary['cases']} cases: {_shown(summary['mean_dice'])}; " + ", ".join(parts)


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    edges = figure["interval"]
    return f"{figure['value']:.3f}" + ("" if edges is None else f" ({edges[0]:.3f} to {edges[1]:.3f})")


def _table(rows: Sequence[Row], name: str, count: int) -> Table:
    return np.array([row[name] for row in rows], dtype=np.float64).reshape(count, -1)


def _means(table: Table) -> Table:
    """The mean of each column over what is defined."""
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0))


def _ratios(upper: Table, lower: Table) -> Table:
    with np.errstate(invalid="ignore"):
        return np.asarray(upper.sum(axis=0) / lower.sum(axis=0))


def _mean_of(dice: Table) -> float:
    """Over classes, of the means over cases."""
    return float(_means(_means(dice)[:, None])[0])


def _figure(value: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    defined = math.isfinite(value)
    return {"value": float(value) if defined else None, "interval": list(interval) if defined and interval else None}


def _extremes(rows: Sequence[Row]) -> dict[str, tuple[Row, float]]:
    """One row of the best, the median and the worst case by mean Dice; cases without any class are none of them."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        if math.isfinite(row["dice"]):
            cases.setdefault(row["file"], []).append(row)
    ranked = sorted(
        ((each[0], float(np.mean([row["dice"] for row in each]))) for each in cases.values()), key=lambda case: case[1]
    )
    if not ranked:
        return {}
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
