"""What each choice of MS-DINO is worth, one changed at a time: probes of the frozen body, SYNTHETIC.

    python benchmarks/study/ablation.py --work_dir ablation --output_file docs/benchmarks/ablation.json

Every variant differs from the study's `msdino` in what its row names. Its body is judged by a logistic regression and
by nearest neighbours on the class token, learnt on a learner's labelled training images, on the test images of the
same hospital; differences are paired over seeds, hospitals and test patients. The seeds are for tuning and none of the
final table's. Run again to continue; `--variants "no KoLeo"` makes one of them, and the table shows all that lie in the
work folder. A body that collapsed is a result, not an error, and its row says so.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from cases import Cases
from commands import bundle, run, work_through
from measuring import machine, parser_of, report, save, write_json
from paired import Pair, Single, estimate
from protocol import SIZES, TASKS, Arm, Protocol
from rows import code_digest, digest
from ways import Seed

from msdino_monai.pretraining.probe import knn_scores, linear_scores

AS_THE_STUDY = "as the study"
VARIANTS: dict[str, dict[str, Any]] = {
    AS_THE_STUDY: {},
    "2 views": {"export": {"num_views": 2}},
    "4 views": {"export": {"num_views": 4}},
    "no augmentation": {"export": {"augment": "{'_target_': 'monai.transforms.Identity'}"}},
    "twice the augmentation": {
        "export": {
            "augment#transforms#0#rotate_range": 0.2,
            "augment#transforms#0#translate_range": "$[0.1 * @img_size] * 2",
            "augment#transforms#0#scale_range": [0.3, 0.3],
            "augment#transforms#1#gamma": [0.4, 1.8],
        }
    },
    "larger subsets (75 %, 40 %)": {"pretraining": {"global_share": 0.75, "local_share": 0.4}},
    "more subsets (4 small ones)": {"pretraining": {"num_local": 4}},
    "position codes 0.5": {"export": {"position_scale": 0.5}},
    "centring": {"pretraining": {"targets": "centring"}},
    "no KoLeo": {"pretraining": {"koleo_weight": 0}},
    "no token term": {"pretraining": {"token_weight": 0}},
    "no noise": {"export": {"noise": 0.0}},
    "no margin": {"export": {"margin": 0}},
    "256 dimensions instead of 64": {"export": {"embedding_dim": 256}},
    "none of the three defences": {"export": {"margin": 0, "noise": 0.0, "embedding_dim": 256}},
    "noise 0.3 instead of a margin": {"export": {"margin": 0, "noise": 0.3}},
    "1 hospital, as many steps": {"num_hospitals": 1},
    "2 hospitals, as many steps": {"num_hospitals": 2},
}
PROBES = {"linear": linear_scores, "knn": knn_scores}

Row = dict[str, Any]


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def arm_of(name: str) -> Arm:
    changed = VARIANTS[name]
    pretraining = {**changed.get("pretraining", {}), "stop_on_collapse": "false"}
    return Arm(slug(name), name, **{**changed, "pretraining": pretraining, "backbone": f"ablation_{slug(name)}"})


def make_row(protocol: Protocol, seed: Seed, name: str) -> Row:
    """The probes of one variant on one seed, made now if they are not there yet."""
    path = place_of(seed, name) / "row.json"
    if path.exists():
        return read_row(path, protocol)
    arm, code = arm_of(name), code_digest(arm_of(name), TASKS["findings"])
    models, cost = seed.pretrain(arm)
    scores = {}
    for site in protocol.learners:
        data, place = seed.cohort / site, place_of(seed, name) / site
        command = bundle(
            "cxr_msdino_pretraining", ["inference", "evaluate"], dataset_dir=data, datalist=data / "datalist.json",
            output_dir=place, backbone=models, num_workers=0,
        )  # fmt: skip
        seed.make(place, lambda made, command=command: run(command, made / "log.txt"))
        found = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["sections"]["test"]
        scores[site] = {probe: found[f"{probe}_auc"] for probe in PROBES}
    row = {
        "variant": name, "seed": seed.seed, "changed": VARIANTS[name], "scores": scores,
        "collapsed_epochs": (models.parent / "log.txt").read_text(encoding="utf-8").count("collapse after epoch"),
        "server_cpu_seconds": cost.cpu_seconds, "resumed": cost.resumed,
        "protocol_sha256": digest(protocol), "code_sha256": code, "machine": machine(),
    }  # fmt: skip
    write_json(path, row, indent=1)
    return row


def place_of(seed: Seed, name: str) -> Path:
    return seed.folder / "probes" / slug(name)


def read_row(path: Path, protocol: Protocol) -> Row:
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    if row["protocol_sha256"] != digest(protocol) or row["changed"] != VARIANTS[row["variant"]]:
        raise SystemExit(f"{path} was made by another protocol or variant; give another --work_dir, or remove it.")
    return row


def said_by(place: Path, datalist: Path) -> dict[str, Cases]:
    """What each probe says of a hospital's test images, from the features that lie there."""
    items = {
        item["image"]: item
        for section in ("training", "test")
        for item in json.loads(datalist.read_text(encoding="utf-8"))[section]
    }
    features = torch.from_numpy(np.load(place / "features.npy", allow_pickle=False))
    with (place / "images.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = {name: [int(line["row"]) for line in lines if line["section"] == name] for name in ("training", "test")}
    known, asked = ([items[lines[row]["image"]] for row in rows[name]] for name in ("training", "test"))
    labels = torch.tensor([item["label"] for item in known], dtype=torch.float32)
    truth = np.array([item["label"] for item in asked], dtype=np.float64)
    patients = np.array([item["patient"] for item in asked])
    classes = tuple(f"class_{number}" for number in range(truth.shape[1]))
    return {
        name: Cases(
            patients,
            classes,
            score(features[rows["training"]], labels, features[rows["test"]]).numpy().astype(np.float64),
            np.where(truth < 0, np.nan, truth),
        )
        for name, score in PROBES.items()
    }


def summarise(rows: Sequence[Row], said: Mapping[tuple[str, int, str], Mapping[str, Cases]]) -> list[Row]:
    """Of each variant and probe the mean AUC, and its paired distance to the study's.

    `said`: what the probes say, by variant, seed and hospital.
    """
    by_variant: dict[str, dict[tuple[int, str], Mapping[str, Cases]]] = {}
    for (name, seed, site), probes in said.items():
        by_variant.setdefault(name, {})[seed, site] = probes
    base = by_variant.get(AS_THE_STUDY, {})
    table = []
    for name in [each for each in VARIANTS if each in by_variant]:
        mine = by_variant[name]
        collapsed = sum(row["collapsed_epochs"] > 0 for row in rows if row["variant"] == name)
        entry: Row = {"variant": name, "seeds": len({seed for seed, _ in mine}), "collapsed": collapsed}
        for probe in PROBES:
            entry[probe] = asdict(estimate([Single(where[0], cases[probe]) for where, cases in mine.items()]))
            pairs = [Pair(where[0], mine[where][probe], base[where][probe]) for where in mine if where in base]
            if name != AS_THE_STUDY and pairs:
                found = estimate(pairs)
                entry[f"{probe}_difference"] = {**asdict(found), "above": found.above}
        table.append(entry)
    return table


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where cohorts, exports and bodies lie; kept")
    parser.add_argument("--size", choices=list(SIZES), default="study")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--workers", type=int, default=2, help="rows made at a time, each on one core")
    arguments = parser.parse_args()
    started_on, protocol = machine(), SIZES[arguments.size]
    work = arguments.work_dir.absolute()
    seeds = [Seed(protocol, work / f"seed_{number}", number) for number in arguments.seeds]
    jobs = {
        f"{name}, seed {seed.seed}": partial(make_row, protocol, seed, name)
        for seed in seeds
        for name in arguments.variants
    }
    work_through(jobs, arguments.workers)
    there = [(seed, name) for seed in seeds for name in VARIANTS if (place_of(seed, name) / "row.json").exists()]
    rows = [read_row(place_of(seed, name) / "row.json", protocol) for seed, name in there]
    said = {
        (name, seed.seed, site): said_by(place_of(seed, name) / site, seed.cohort / site / "datalist.json")
        for seed, name in there
        for site in protocol.learners
    }
    table = summarise(rows, said)
    show(table)
    save(arguments, started_on, {"table": table, "rows": rows})


def show(table: Sequence[Row]) -> None:
    lines = [
        [
            entry["variant"],
            entry["seeds"],
            entry["collapsed"],
            *(cell for probe in PROBES for cell in _cells(entry, probe)),
        ]
        for entry in table
    ]
    header = [cell for probe in PROBES for cell in (probe, "difference", "low", "high", "above 0")]
    report(
        "Probes, mean AUC, SYNTHETIC; differences to the first, 95 %", ("variant", "seeds", "collapsed", *header), lines
    )


def _cells(entry: Row, probe: str) -> list[object]:
    if (found := entry.get(f"{probe}_difference")) is None:
        return [entry[probe]["mean"], *"----"]
    above = f"{found['above']}/{len(found['values'])}"
    return [entry[probe]["mean"], found["mean"], found["low"], found["high"], above]


if __name__ == "__main__":
    main()
