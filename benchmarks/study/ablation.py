"""What each choice of MS-DINO is worth, one changed at a time: probes of the frozen body, SYNTHETIC.

    python benchmarks/study/ablation.py --work_dir ablation --output_file docs/benchmarks/ablation.json

Every variant differs from the study's `msdino` in what its row names. Its body is judged by a logistic regression and
by nearest neighbours on the class token, learnt on a learner's labelled training images, on the test images of the
same hospital. The seeds are for tuning and none of the final table's. Run again to continue; finished rows are kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
from commands import bundle, run, work_through
from measuring import machine, parser_of, report, save, write_json
from protocol import SIZES, Arm, Protocol
from rows import digest
from ways import Seed

VARIANTS: dict[str, dict[str, Any]] = {
    "as the study": {},
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
    "centring": {"pretraining": {"targets": "centre"}},
    "no KoLeo": {"pretraining": {"koleo_weight": 0}},
    "no token term": {"pretraining": {"token_weight": 0}},
    "no defence (margin 0, D 256)": {"export": {"margin": 0, "noise": 0.0, "embedding_dim": 256}},
    "noise 0.3 instead of a margin": {"export": {"margin": 0, "noise": 0.3}},
    "margin 4 instead of noise": {"export": {"margin": 4, "noise": 0.0}},
    "margin alone": {"export": {"noise": 0.0}},
    "1 hospital": {"num_hospitals": 1},
    "2 hospitals": {"num_hospitals": 2},
}
PROBES = ("linear_auc", "knn_auc")


def arm_of(name: str) -> Arm:
    backbone = f"ablation_{list(VARIANTS).index(name):02d}"
    return Arm(backbone, name, backbone=backbone, **VARIANTS[name])


def make_row(protocol: Protocol, seed: Seed, name: str) -> dict[str, Any]:
    """The probes of one variant on one seed, made now if they are not there yet."""
    arm = arm_of(name)
    place = seed.folder / "probes" / str(arm.backbone)
    path = place / "row.json"
    if path.exists():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if row["protocol_sha256"] != digest(protocol):
            raise SystemExit(f"{path} was made by another protocol; give another --work_dir, or remove it.")
        return row
    models, cost = seed.pretrain(arm)
    scores = {}
    for site in protocol.learners:
        data = seed.cohort / site
        command = bundle(
            "cxr_msdino_pretraining", ["inference", "evaluate"], dataset_dir=data, datalist=data / "datalist.json",
            output_dir=place / site, backbone=models, num_workers=0,
        )  # fmt: skip
        seed.make(place / site, lambda made, command=command: run(command, made / "log.txt"))
        found = json.loads((place / site / "metrics.json").read_text(encoding="utf-8"))["sections"]["test"]
        scores[site] = {probe: found[probe] for probe in PROBES}
    row = {
        "variant": name, "seed": seed.seed, "changed": VARIANTS[name], "scores": scores,
        "server_cpu_seconds": cost.cpu_seconds, "protocol_sha256": digest(protocol), "machine": machine(),
    }  # fmt: skip
    write_json(path, row, indent=1)
    return row


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each variant the mean over seeds and learners, and its distance to the first on the same seeds."""

    def by_seed(name: str, probe: str) -> dict[int, float]:
        mine = [row for row in rows if row["variant"] == name]
        return {row["seed"]: float(np.mean([each[probe] for each in row["scores"].values()])) for row in mine}

    table = []
    first = next(iter(VARIANTS))
    for name in [each for each in VARIANTS if any(row["variant"] == each for row in rows)]:
        entry: dict[str, Any] = {"variant": name}
        for probe in PROBES:
            found, base = by_seed(name, probe), by_seed(first, probe)
            gaps = [found[seed] - base[seed] for seed in sorted(found.keys() & base.keys())]
            entry[probe] = float(np.mean(list(found.values())))
            entry[f"{probe}_gaps"] = gaps
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
    rows = work_through(
        {
            f"{name}, seed {seed.seed}": partial(make_row, protocol, seed, name)
            for seed in seeds
            for name in arguments.variants
        },
        arguments.workers,
    )
    table = summarise(rows)
    lines = [
        [entry["variant"], *(cell for probe in PROBES for cell in (entry[probe], np.mean(entry[f"{probe}_gaps"] or 0)))]
        for entry in table
    ]
    report("Probes, mean AUC, SYNTHETIC; beside each its distance to the first", ("variant", *_header()), lines)
    save(
        arguments, started_on, {"table": table, "rows": [{k: v for k, v in r.items() if k != "machine"} for r in rows]}
    )


def _header() -> list[str]:
    return [cell for probe in ("linear", "k-NN") for cell in (probe, "difference")]


if __name__ == "__main__":
    main()
