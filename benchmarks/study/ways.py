"""How each arm comes to its models, through the bundles' own commands. What is finished is not made again."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from commands import BUNDLES, Cost, bundle, code_of, once, ours, run, seeded
from protocol import ARMS, TASKS, WARMUP_SHARE, Arm, Protocol, Task

_LOCK, _LOCKS = threading.Lock(), defaultdict[Path, threading.Lock](threading.Lock)


class Seed:
    """Everything of one seed, in a folder of its own: cohort, exports, bodies, models.

    `given` is a folder of hospitals with datalists, to study instead of a cohort; a seed then draws labels and weights.
    """

    def __init__(self, protocol: Protocol, folder: Path, seed: int, given: Path | None = None) -> None:
        self.protocol, self.folder, self.seed, self.given = protocol, folder, seed, given

    @property
    def cohort(self) -> Path:
        return self.given or self.folder / "cohort"

    def make(self, place: Path, work: Callable[[Path], Cost], anew: Sequence[Path] = ()) -> Cost:
        """Do `work` once, whoever asks first; who asks meanwhile waits."""
        with _LOCK:
            lock = _LOCKS[place]
        with lock:
            return once(place, work, anew)

    def prepare(self) -> None:
        """The hospitals, and datalists that join them."""
        self.make(self.folder / "made", self._write_data)

    def _write_data(self, place: Path) -> Cost:
        sizes = self.protocol
        drawn = ours(
            "cohort", output_dir=self.cohort, sites=len(sizes.hospitals) + 1, patients_per_site=sizes.patients,
            seed=self.seed, image_size=sizes.image_size,
        )  # fmt: skip
        cost = Cost() if self.given else run(drawn, place / "log.txt")
        for site in sizes.hospitals:
            training = {"training": self._datalist(site)["training"]}  # what is tested on is never exported
            _write(self.folder / "lists" / f"{site}.json", training)
            _link(self.folder / "hospitals" / site, self.cohort / site)
        return cost

    def _datalist(self, site: str) -> dict[str, Any]:
        return dict(json.loads((self.cohort / site / "datalist.json").read_text(encoding="utf-8")))

    def training_bytes(self, site: str) -> int:
        """Of a hospital's training images, as files."""
        return sum((self.cohort / site / item["image"]).stat().st_size for item in self._datalist(site)["training"])

    def pooled(self, fraction: float) -> dict[str, Any]:
        """A datalist of what all hospitals label: of each, the same share that it would learn from alone."""
        from msdino_monai.finetuning import few_labels  # and with it MONAI, which takes seconds

        lists = {site: self._datalist(site) for site in self.protocol.hospitals}
        for content in lists.values():
            content["training"] = few_labels(content["training"], fraction, self.seed)
        return self._joined(lists, ("training", "validation"))

    @staticmethod
    def _joined(lists: Mapping[str, dict[str, Any]], sections: Iterable[str]) -> dict[str, Any]:
        """One datalist of several hospitals: paths relative to the cohort, patients named after their hospital."""
        names = next(iter(lists.values()))
        joined: dict[str, Any] = {key: names[key] for key in ("labels", "classes") if key in names}
        for section in sections:
            joined[section] = [
                {key: f"{site}/{value}" if isinstance(value, str) else value for key, value in item.items()}
                for site, content in lists.items()
                for item in content[section]
            ]
        return joined

    def export(self, arm: Arm, site: str) -> tuple[Path, Cost]:
        """A hospital's sealed export, once."""
        self.prepare()
        self.make(self.folder / "keys", self._write_keys)
        place, sizes = self.folder / "exporting" / arm.exports / site, self.protocol
        export = self.folder / "exports" / arm.exports / site
        recipient = (self.folder / "keys" / "coordinator_recipient.txt").read_text(encoding="utf-8").strip()
        command = bundle(
            "cxr_embedding_export", ["inference"], dataset_dir=self.cohort / site,
            datalist=self.folder / "lists" / f"{site}.json", output_dir=export, state_dir=place / "state",
            site_id=site, recipient=recipient, num_workers=sizes.workers,
            **{"img_size": sizes.img_size, "num_views": sizes.views, **arm.export},
        )  # fmt: skip
        command = seeded(command, 100 * self.seed + sizes.hospitals.index(site))
        # One that went on after a kill would draw other numbers than one that was never killed.
        return export, self.make(place, lambda made: run(command, made / "log.txt"), anew=(export, place))

    def _write_keys(self, place: Path) -> Cost:
        return run(ours("keygen", output_dir=place, kind="coordinator"), place / "log.txt")

    def pretrain(self, arm: Arm, site: str | None = None) -> tuple[Path, Cost]:
        """The body that the coordinator sends back, or that a hospital makes of its own images alone."""
        sizes, name = self.protocol, str(arm.backbone)
        given = {"seed": self.seed, **sizes.body, **sizes.pretraining, **arm.pretraining}
        configs = ["train", "demonstration"]
        self.prepare()
        if arm.sees_images:
            configs.append("central")
            given |= {"dataset_dir": self.folder / "hospitals", "img_size": sizes.img_size}
        if arm.backbone == "home":
            name = f"home_{site}"
            given |= {"dataset_dir": self.folder / "alone" / str(site), **self._as_many_steps([str(site)])}
            _link(given["dataset_dir"] / str(site), self.cohort / str(site))
        elif not arm.sees_images:
            given["dataset_dir"] = self.folder / "joined" / name
            given |= {"allow_unsigned": "true", "identity": self.folder / "keys" / "coordinator_identity.txt"}
            hospitals = sizes.hospitals[: arm.num_hospitals]
            given |= self._as_many_steps(hospitals) if arm.num_hospitals else {}
            for hospital in hospitals:
                _link(given["dataset_dir"] / hospital, self.export(arm, hospital)[0])
        place = self.folder / "bodies" / name
        command = bundle("cxr_msdino_pretraining", configs, output_dir=place, **given)
        bundles = ("cxr_embedding_export", "cxr_msdino_pretraining")

        def work(made: Path) -> Cost:
            code = code_of(bundles, asdict(arm))
            return replace(run(command, made / "log.txt"), code=code)

        return place / "models", self.make(place, work)

    def _as_many_steps(self, sites: Sequence[str]) -> dict[str, int]:
        """What pretraining counts in epochs, for the images of these hospitals instead of everybody's."""
        usual: dict[str, Any] = {}
        for config in ("train", "demonstration"):
            path = BUNDLES / "cxr_msdino_pretraining" / "configs" / f"{config}.json"
            usual |= json.loads(path.read_text(encoding="utf-8"))
        usual |= self.protocol.pretraining
        images = {hospital: len(self._datalist(hospital)["training"]) for hospital in self.protocol.hospitals}
        longer = sum(images.values()) / sum(images[site] for site in sites)
        return {name: round(longer * usual[name]) for name in COUNTED_IN_EPOCHS}

    def learn(self, arm: Arm, task: Task, place: Path, site: str | None, fraction: float) -> tuple[Path, Cost]:
        """A model for a task from a share of the labels: one hospital's, or everybody's."""
        backbone = self.pretrain(arm, site)[0] if arm.backbone else None
        self.prepare()
        sizes = self.protocol.of(task)
        epochs, rounds = sizes.epochs[fraction], sizes.rounds_of(fraction)
        given = {
            "img_size": sizes.img_size, "label_fraction": 1.0 if arm.learning == "pooled" else fraction,
            "seed": self.seed, "num_workers": 0, "backbone": backbone,
            **({} if backbone else sizes.body), **task.settings, **sizes.finetuning,
        }  # fmt: skip
        if WARMUP_SHARE in given:
            given["warmup_epochs"] = given.pop(WARMUP_SHARE) * epochs
        if arm.learning == "fedavg":
            chosen = ",".join(f"{name}={value}" for name, value in given.items() if value is not None)
            command = ours(
                "federate", bundle=BUNDLE_OF[task.bundle], sites_dir=self.folder / "hospitals", rounds=rounds,
                local_epochs=epochs // rounds, output_dir=place / "federation", set=chosen,
            )  # fmt: skip
            model = place / "federation" / "global" / "model.pt"
        else:
            data = self.cohort if site is None else self.cohort / site
            datalist = place / "datalist.json" if site is None else data / "datalist.json"
            command = bundle(
                task.bundle, ["train"], dataset_dir=data, datalist=datalist, output_dir=place,
                max_epochs=epochs, val_interval=epochs, **given,  # the last weights: validation chooses nothing
            )  # fmt: skip
            model = place / "models" / "model.pt"

        def work(made: Path) -> Cost:
            if arm.learning == "pooled":
                _write(datalist, self.pooled(fraction))
            return run(command, made / "log.txt")

        return model, self.make(place, work)

    def test(self, task: Task, model: Path, place: Path, sites: Iterable[str]) -> Path:
        """The model on the test images of these hospitals; returns the table of cases."""
        datalist = place / "datalist.json"
        command = bundle(
            task.bundle, ["train", "evaluate"], dataset_dir=self.cohort, datalist=datalist,
            output_dir=place, model=model, num_workers=self.protocol.workers, bootstrap_repeats=10,
        )  # fmt: skip

        def on_their_images(made: Path) -> Cost:
            _write(datalist, self._joined({site: self._datalist(site) for site in sites}, ("test",)))
            return run(command, made / "log.txt")

        self.make(place, on_their_images)
        return place / "cases.csv"


COUNTED_IN_EPOCHS = ("max_epochs", "warmup_epochs", "frozen_prototype_epochs")
BUNDLE_OF = {task.bundle: Path(__file__).resolve().parents[2] / "bundles" / task.bundle for task in TASKS.values()}


def places(
    protocol: Protocol, arms: Iterable[str], tasks: Iterable[str], fractions: Iterable[float]
) -> list[tuple[str, str, float, str]]:
    """Every row of a seed: arm, task, share of labels, and who learns (`all` where it is not one hospital)."""
    return [
        (arm, task, fraction, site)
        for task in tasks
        for fraction in fractions
        for arm in arms
        for site in (protocol.learners if ARMS[arm].learning == "alone" else ("all",))
    ]


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _link(where: Path, target: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    try:
        where.symlink_to(target.resolve())
    except FileExistsError:  # made before, or just now by a row that needs the same
        if where.resolve() != target.resolve():
            raise
