"""What a pretraining is worth, through the commands a user types: probes of frozen features, and few-label fine-tuning.

    python benchmarks/pretraining_value.py --work_dir W --output_file docs/benchmarks/pretraining_value.json

For every seed a SYNTHETIC cohort of three hospitals is made, each exports its training images, the demonstration
setting pretrains on them, and two comparisons follow. Frozen: a linear probe and nearest neighbours on each hospital's
labelled training images, judged on its test images, for the pretrained body and for the same body before training. Few
labels: the classification bundle trained on a share of one hospital's training patients from the pretrained body and
from scratch, judged on the test images of that hospital. Run again to continue; what is finished in W is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measuring import machine, parser_of, report, save

from msdino_monai.backbone import read_backbone, save_backbone
from msdino_monai.networks import ViTBody

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def hospitals(arguments: argparse.Namespace) -> list[str]:
    return [f"site_{letter}" for letter in "abcdef"[: arguments.hospitals]]


def run(*words: object, log: Path, accepted: Sequence[int] = (0, 3)) -> float:
    """One command; its seconds. What it prints goes to `log`."""
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, words))}\n")
        file.flush()
        status = subprocess.run(list(map(str, words)), stdout=file, stderr=file, check=False).returncode
    if status not in accepted:
        raise RuntimeError(f"status {status}; see {log}")
    return time.perf_counter() - start


def bundle(name: str, configs: Sequence[str], log: Path, **settings: Any) -> float:
    folder = BUNDLES / name
    files = [str(folder / "configs" / f"{config}.json") for config in configs]
    flags = [word for key, value in settings.items() if value is not None for word in (f"--{key}", value)]
    return run(
        *(sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)),
        *("--bundle_root", folder, "--logging_file", folder / "configs" / "logging.conf", *flags),
        log=log,
    )


def only_training(datalist: Path, where: Path) -> Path:
    """The export sees no image that is judged on later."""
    sections = json.loads(datalist.read_text(encoding="utf-8"))
    where.write_text(json.dumps({"training": sections["training"]}), encoding="utf-8")
    return where


def pretrain(folder: Path, seed: int, arguments: argparse.Namespace) -> float:
    """Cohort, exports and a pretrained body for one seed; the seconds of the pretraining alone."""
    log = folder / "log.txt"
    cohort = folder / "cohort"
    run(
        *(sys.executable, "-m", "msdino_monai", "cohort", "--output_dir", cohort, "--sites", arguments.hospitals),
        *("--patients_per_site", arguments.patients, "--seed", seed, "--image_size", arguments.image_size),
        log=log,
    )
    for site in hospitals(arguments):
        bundle(
            "cxr_embedding_export", ["inference"], log, dataset_dir=cohort / site, output_dir=folder / "exports" / site,
            datalist=only_training(cohort / site / "datalist.json", folder / f"{site}.json"),
            state_dir=folder / "states" / site, site_id=site, img_size=arguments.img_size, num_views=arguments.views,
            **pairs(arguments.export),
        )  # fmt: skip
    timing = folder / "seconds.json"
    seconds = bundle(
        "cxr_msdino_pretraining", ["train", "demonstration"], log, dataset_dir=folder / "exports",
        output_dir=folder / "pretraining", allow_unsigned="true", seed=seed, **pairs(arguments.train),
    )  # fmt: skip
    if not timing.exists():
        timing.write_text(json.dumps(seconds))
    return float(json.loads(timing.read_text()))


def pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def untrained(folder: Path, seed: int) -> Path:
    """The body as the pretraining started it, saved like the trained one."""
    trained = read_backbone(folder / "pretraining" / "models")
    assert trained.description is not None
    torch.manual_seed(seed)
    body = ViTBody(**trained.description["body"])
    state = {f"body.{name}": tensor for name, tensor in body.state_dict().items()}
    state["embedding.weight"] = trained.state["embedding.weight"]
    description = {key: trained.description[key] for key in ("body", "embedder", "sites", "settings", "trained")}
    save_backbone(folder / "untrained", state, {**description, "trained": {"epochs": 0}})
    return folder / "untrained"


def frozen(folder: Path, backbone: Path, name: str, sites: Sequence[str]) -> dict[str, float]:
    """Means over the hospitals of what frozen features are worth."""
    scores = []
    for site in sites:
        data, output = folder / "cohort" / site, folder / "probes" / name / site
        if not (output / "metrics.json").exists():
            bundle(
                "cxr_msdino_pretraining", ["inference", "evaluate"], folder / "log.txt", dataset_dir=data,
                datalist=data / "datalist.json", output_dir=output, backbone=backbone,
            )  # fmt: skip
        scores.append(json.loads((output / "metrics.json").read_text())["sections"]["test"])
    return {key: float(np.mean([score[key] for score in scores])) for key in ("linear_auc", "knn_auc")}


def defences(changed: Sequence[str]) -> dict[str, Any]:
    """Those that every hospital's export here has: the export's default, but for what was changed."""
    config = json.loads((BUNDLES / "cxr_embedding_export" / "configs" / "inference.json").read_text(encoding="utf-8"))
    default = {name: config[name] for name in ("embedding_dim", "margin", "noise")}
    return {**default, **{name: yaml.safe_load(value) for name, value in pairs(changed).items()}}


def few_labels(
    folder: Path, backbone: Path | None, name: str, site: str, seed: int, fraction: float, more: Any
) -> float:
    """Mean AUC on a hospital's test images after training on few of its labels."""
    data, output = folder / "cohort" / site, folder / "few_labels" / f"{name}_{site}_{seed}"
    body = read_backbone(folder / "pretraining" / "models").description
    assert body is not None
    sizes = {**body["body"], "margin": body["embedder"]["margin"]} if backbone is None else {}
    if not (output / "test" / "metrics.json").exists():
        common = {"dataset_dir": data, "datalist": data / "datalist.json"}
        bundle(
            "cxr_classification", ["train"], folder / "log.txt", **common, output_dir=output, backbone=backbone,
            img_size=body["settings"].get("img_size") or 16 * round(body["embedder"]["num_tokens"] ** 0.5),
            label_fraction=fraction, seed=seed, **sizes, **more,
        )  # fmt: skip
        bundle(
            "cxr_classification", ["train", "evaluate"], folder / "log.txt", **common, output_dir=output / "test",
            model=output / "models" / "model.pt",
        )  # fmt: skip
    return float(json.loads((output / "test" / "metrics.json").read_text())["mean"]["auc"]["value"])


def measure(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.work_dir / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    seconds = pretrain(folder, seed, arguments)
    trained, fresh = folder / "pretraining" / "models", untrained(folder, seed)
    result: dict[str, Any] = {
        "seed": seed,
        "pretraining_seconds": seconds,
        "trained": read_backbone(trained).description["trained"],  # type: ignore[index]
        "curves": (folder / "pretraining" / "curves.csv").read_text().splitlines()[-1],
        "frozen": {
            name: frozen(folder, backbone, name, hospitals(arguments))
            for name, backbone in (("pretrained", trained), ("untrained", fresh))
        },
        "few_labels": {},
    }
    more = pairs(arguments.finetune)
    if not arguments.draws:
        return result
    for name, backbone in (("pretrained", trained), ("scratch", None)):
        result["few_labels"][name] = {
            site: [
                few_labels(folder, backbone, name, site, draw, arguments.label_fraction, more)
                for draw in range(arguments.draws)
            ]
            for site in hospitals(arguments)[: arguments.fine_tuning]
        }
    return result


def show(rows: Sequence[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
        frozen_of, few = row["frozen"], row["few_labels"]
        line: list[object] = [row["seed"], row["pretraining_seconds"] / 60]
        for score in ("linear_auc", "knn_auc"):
            line += [frozen_of["pretrained"][score], frozen_of["untrained"][score]]
        few_labels_of = (few[name].values() if few else [np.nan] for name in ("pretrained", "scratch"))
        lines.append([*line, *(float(np.mean(list(scores))) for scores in few_labels_of)])
    header = ("seed", "minutes", "linear", "untrained", "k-NN", "untrained", "few labels", "from scratch")
    report("Mean ROC AUC over findings on test images, SYNTHETIC", header, lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="where cohorts, exports and models lie; kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--patients", type=int, default=800, help="patients of each hospital")
    parser.add_argument("--image_size", type=int, default=256, help="longer side of the stored radiographs")
    parser.add_argument("--img_size", type=int, default=128, help="side of what the networks see")
    parser.add_argument("--views", type=int, default=1, help="exported views of each image")
    parser.add_argument("--export", nargs="*", default=[], metavar="NAME=VALUE", help="other defences")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the pretraining")
    parser.add_argument("--finetune", nargs="*", default=["max_epochs=30"], metavar="NAME=VALUE")
    parser.add_argument("--label_fraction", type=float, default=0.15)
    parser.add_argument("--draws", type=int, default=2, help="draws of few labels; 0: probes alone")
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--fine_tuning", type=int, default=2, help="how many of them fine-tune")
    arguments = parser.parse_args()
    started_on, exported, rows = machine(), defences(arguments.export), []
    for seed in arguments.seeds:
        rows.append(measure(seed, arguments))
        show(rows)
    save(arguments, started_on, {"export": exported, "rows": rows})


if __name__ == "__main__":
    main()
