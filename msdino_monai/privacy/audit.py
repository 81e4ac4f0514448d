"""The privacy audit: export a sample, attack what was written with everything we have, judge."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import logging
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.exporting.audit import ATTACKERS, hash_settings
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.plain import plain
from msdino_monai.privacy import identification, reconstruction
from msdino_monai.privacy.coverage import estimate
from msdino_monai.privacy.identification import LeftOut
from msdino_monai.privacy.overlap import can_bridge
from msdino_monai.privacy.pool import ExportBundle, Pool, read_labels, read_pool
from msdino_monai.privacy.reconstruction import Attempt, Learnt, Puzzle
from msdino_monai.privacy.report import write_report
from msdino_monai.privacy.row import Row, row_of_values
from msdino_monai.privacy.sample import Sample, write_sample
from msdino_monai.privacy.verdict import JOINED_VIEWS, STRENGTH, Verdict, check_limits, judge, look_at_order, weakened
from msdino_monai.vault.atomic import make_private_folder

_log = logging.getLogger("msdino_monai.audit")

_PACKAGES = ("torch", "monai", "numpy", "scipy", "pydicom")

Floats = npt.NDArray[np.float32]


class AuditFailedError(UserError):
    """The settings do not keep to the thresholds."""


@dataclass
class Findings:
    """What the attacks leave, in the order they were run."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def take(self, found: Iterable[Row | LeftOut | Attempt]) -> None:
        for each in found:
            if isinstance(each, LeftOut):
                self.left_out.append(each)
                _log.info("Left out: %s; %s.", each.attack, each.reason)
                continue
            if isinstance(each, Attempt):
                self.attempts.append(each)
            for row in each.rows if isinstance(each, Attempt) else (each,):
                self.rows.append(row)
                _log.info("%s: %s %.3f (chance %.3f).", row.attack, row.metric, row.figure, row.chance)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        _log.info("%s: %.0f s.", name.capitalize(), self.seconds[name])


def attack(
    sample: Sample,
    pool: Pool,
    *,
    max_images: int = 12,
    training_steps: int = 1500,
    labels: Mapping[str, npt.NDArray[np.int64]] | None = None,
    backbone: str | Path | None = None,
    strangers: bool = False,
    seed: int = 0,
) -> Findings:
    """All attacks on an opened sample, one step each. The first `max_images` are reconstructed, all are linked.

    Args:
        labels: attributes (B,) of the sample's images, to infer.
        backbone: a pretrained body, to ask for members.
        strangers: whether the auxiliary images are of another data set than the body's.
    """
    found = Findings()
    auxiliary = np.stack([image.picture for image in pool.auxiliary])
    tasks = reconstruction.puzzles(sample[:max_images], seed)
    with found.step("order in the file"):
        row, found.leaks = look_at_order(sample, seed=seed)
        found.take([row])
    with found.step("learning from auxiliary images"):
        learnt: Learnt = reconstruction.learn(sample, auxiliary, steps=training_steps, seed=seed)
    with found.step("inversion"):
        found.take(reconstruction.attack_patches(tasks, learnt, seed=seed))
    with found.step("places"):
        found.take(reconstruction.attack_places(tasks, learnt, seed=seed))
    with found.step("jigsaw"):
        found.take(reconstruction.attack_puzzles(tasks, learnt, seed=seed))
        one_view = list(found.rows)
    with found.step("views together"):
        found.take(_join_views(tasks, learnt, seed))
        found.take(_estimate_views(sample, one_view, seed))
    with found.step("learnt inverter"):
        found.take([reconstruction.attack_sets(tasks, learnt, seed=seed)])
    with found.step("linkage"):
        found.take(identification.link_images(sample, auxiliary, seed=seed))
        found.take(identification.link_patients(sample, pool.relatives, seed=seed))
    with found.step("attributes"):
        found.take(identification.infer_attributes(sample, labels or {}, seed=seed))
    with found.step("membership"):
        found.take(identification.infer_membership(sample, auxiliary, backbone, are_strangers=strangers, seed=seed))
    with found.step("known image"):
        found.take([identification.break_secret_map(sample, seed=seed)])
    return found


def _join_views(tasks: Sequence[Puzzle], learnt: Learnt, seed: int) -> Iterator[Attempt | LeftOut]:
    embedder, views = tasks[0].sample.evidence.embedder, len(tasks[0].views)
    if can_bridge(embedder.width, embedder.patch_size):
        yield from reconstruction.attack_views(tasks, learnt, seed=seed)
    elif views > 1:
        yield LeftOut(
            "jigsaw of views together",
            f"patches show {embedder.width} of {embedder.patch_size} pixels: none of one view reaches over the gap in "
            "another. An estimate of what views could join is judged instead",
        )
    if views > 1:
        yield LeftOut(
            "places, inverter, linkage and likeness (SSIM) from several views",
            "these attackers look at the first view alone. Who took all of them would do better",
        )


def _estimate_views(sample: Sample, rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """What several views may allow: every view's own jigsaw, carried over to the first wherever views overlap or abut.

    Our own attack on several views is too weak to be believed; with a wide margin there is none.
    """
    embedder, views = sample.evidence.embedder, sample.orders.shape[1]
    if views == 1:
        return
    sizes = embedder.grid[0] * embedder.patch_size, embedder.patch_size, embedder.width
    share = estimate(sample.augment, views, *sizes)
    jigsaws = [row for row in rows if row.metric == "neighbours"]
    best = np.fmax.reduce([row.values for row in jigsaws])
    knowledge = replace(jigsaws[-1].knowledge, all_views=True)
    values = np.minimum(1.0, views * best + share).tolist()
    yield row_of_values(JOINED_VIEWS, "neighbours", knowledge, values, jigsaws[-1].chance, seed=seed)


class PrivacyAudit:
    """One audit, from the images to `audit.json`, `images.csv`, pictures and `report.html` in `output_dir`.

    The folder shows patients' images: it is made for its owner alone (0700) and stays in the hospital.

    Args:
        bundle_root: of the export bundle, whose configuration is run.
        export_settings: settings of the export to audit; None leaves the bundle's own.
        dataset_dir: the radiographs.
        output_dir: where the audit goes.
        thresholds: the most the attacks may reach; see `verdict.THRESHOLDS`.
        datalist: of the radiographs, as the export takes it; its labels and patients are used.
        auxiliary_dir: images of other people; without it, those of `dataset_dir` that are not exported.
        backbone: a pretrained body, for membership inference.
        max_images: images that are reconstructed.
        max_exported_images: images that are exported and linked.
        max_auxiliary_images: images the attacker learns from.
        training_steps: of each network the attacker trains.
        seed: of everything but the shuffle.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        export_settings: Mapping[str, Any],
        dataset_dir: str | Path,
        output_dir: str | Path,
        thresholds: Mapping[str, float | None],
        datalist: str | Path | None = None,
        auxiliary_dir: str | Path | None = None,
        backbone: str | Path | None = None,
        max_images: int = 12,
        max_exported_images: int = 48,
        max_auxiliary_images: int = 480,
        training_steps: int = 1500,
        seed: int = 0,
    ) -> None:
        self.bundle = ExportBundle(bundle_root, export_settings)
        self.dataset_dir, self.datalist, self.auxiliary_dir = dataset_dir, datalist, auxiliary_dir
        self.output_dir = Path(str(output_dir)).expanduser().resolve()
        self.thresholds, self.backbone, self.seed = check_limits(thresholds), backbone, seed
        self.max_images, self.max_exported_images = max_images, max(max_images, max_exported_images)
        self.max_auxiliary_images, self.training_steps = max_auxiliary_images, training_steps
        self.verdict: Verdict
        self.leaks: list[str] = []

    def run(self) -> None:
        """Export, attack, judge, write."""
        make_private_folder(self.output_dir)
        for name in ("audit.json", "report.html", "images.csv"):  # an old verdict must not outlive a broken run
            (self.output_dir / name).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=self.output_dir, prefix="sample_") as folder:
            pool = self._read(Path(folder))
            sample = write_sample(self.bundle, pool, self.dataset_dir, Path(folder), self.seed)
            _log.info("%d images are exported, %d are reconstructed.", len(sample), min(self.max_images, len(sample)))
        found = attack(
            sample,
            pool,
            max_images=self.max_images,
            training_steps=self.training_steps,
            labels=read_labels([image.file for image in sample.radiographs], self.datalist, self.dataset_dir),
            backbone=self.backbone,
            strangers=self.auxiliary_dir is not None,
            seed=self.seed,
        )
        self.verdict, self.leaks = judge(found.rows, self.thresholds), found.leaks
        page = self._describe(sample, pool, found)
        page["pictures"] = write_pictures(self.output_dir, sample, found.attempts)
        write_values(self.output_dir / "images.csv", found.rows)
        write_report(self.output_dir, page)
        # Last: where it lies, the audit is whole.
        (self.output_dir / "audit.json").write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
        _log.info("%s.", self.verdict.in_words().capitalize())

    def finish(self) -> None:
        """Say how it went; settings that fail end the run with status 1."""
        if not self.verdict.passed:
            advice = "choose stronger settings (docs/privacy-audit.md) and audit them"
            if self.leaks:
                advice = (
                    f"no setting mends a fault of the export ({', '.join(self.leaks)}): report it, and send nothing"
                )
            raise AuditFailedError(f"{self.verdict.in_words()}; {advice}. See {self.output_dir}.")
        print(f"{self.verdict.in_words()}; see {self.output_dir}.")

    def _read(self, folder: Path) -> Pool:
        return read_pool(
            self.bundle,
            self.dataset_dir,
            self.output_dir,
            datalist=self.datalist,
            auxiliary_dir=self.auxiliary_dir,
            exported=self.max_exported_images,
            auxiliary=self.max_auxiliary_images,
            quarantine=Quarantine(folder),
            seed=self.seed,
        )

    def _describe(self, sample: Sample, pool: Pool, found: Findings) -> dict[str, Any]:
        strength = {name: getattr(self, name) for name in STRENGTH}
        reconstructed = min(self.max_images, len(sample))
        there = {"max_images": reconstructed, "max_exported_images": len(sample)}
        there["max_auxiliary_images"] = len(pool.auxiliary)
        return {
            "format": "msdino_monai privacy audit",
            "verdict": self.verdict.describe(),
            "export": sample.settings,
            "export_sha256": hash_settings(sample.settings),
            "embedder_sha256": sample.settings["embedder"]["sha256"],
            "images": {
                "exported": len(sample),
                "reconstructed": reconstructed,
                "auxiliary": len(pool.auxiliary),
                "auxiliary_source": pool.source,
            },
            "audit": plain({"seed": self.seed, **strength, "thresholds": self.thresholds}),
            "attackers": ATTACKERS,
            "weaker_than_usual": weakened({**strength, **there}),
            "order_leaks": found.leaks,
            "rows": [row.describe() for row in found.rows],
            "left_out": [each.describe() for each in found.left_out],
            "versions": {
                "msdino_monai": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
            },
            "seconds": found.seconds,
        }


def write_pictures(folder: Path, sample: Sample, attempts: Iterable[Attempt]) -> dict[str, str]:
    """For every reconstructed image: the view as it was exported, and what each attack made of it; names, captions."""
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    make_private_folder(pictures)
    kept = [attempt for attempt in attempts if attempt.caption]
    captions = {}
    for image in range(max((len(attempt.pictures) for attempt in kept), default=0)):
        shown = [("0_exported", sample.views[image, 0], "as it was exported")]
        for number, attempt in enumerate(kept, start=1):
            if image < len(attempt.pictures):
                shown.append((str(number), attempt.pictures[image], attempt.caption))
        for name, picture, caption in shown:
            captions[f"{image + 1:02d}_{name}.png"] = caption
            save_picture(pictures / f"{image + 1:02d}_{name}.png", picture)
    return captions


def save_picture(path: Path, picture: Floats) -> None:
    """A picture (H, W) in [0, 1] as an 8-bit PNG."""
    Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(path)


def write_values(path: Path, rows: Iterable[Row]) -> None:
    """One line for each image and figure; images are numbered, not named."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "attack", "metric", "value"))
        for row in rows:
            for image, value in enumerate(row.values, start=1):
                writer.writerow((image, row.attack, row.metric, f"{value:.6g}"))
