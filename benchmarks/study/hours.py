"""How long the study would take on one GPU with a ViT-S/16 on real radiographs: an estimate, counted and scaled.

    python benchmarks/study/hours.py --output_file docs/benchmarks/hours.json

What a step computes is counted; how fast this code computes was measured on this machine by benchmarks/pretraining.py.
No GPU was measured: its hours are those operations at --teraflops, which you should replace by what yours sustains.
`central` is counted as DINO with its published crops and prototypes, a little more than central.json takes. Reading
images, validation and tests come on top.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from measuring import machine, parser_of, report, save
from protocol import ARMS, SIZES, Arm, Protocol
from torch.utils.flop_counter import FlopCounterMode

from msdino_monai.finetuning.classification.network import build_classifier

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "pretraining.json"
# What is asked for, and the arms and shares of labels that it takes.
PARTS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "the two primary comparisons": (("local", "fedavg", "msdino"), (0.1,)),
    "these three arms, all shares of labels": (("local", "fedavg", "msdino"), (0.01, 0.1, 1.0)),
    "all arms, all shares of labels": (tuple(ARMS), (0.01, 0.1, 1.0)),
}


def fine_tuning_flops(protocol: Protocol, num_classes: int) -> float:
    """Of one image, forward and backward."""
    network = build_classifier(num_classes, img_size=protocol.img_size, **protocol.body)
    image = torch.zeros(1, 1, protocol.img_size, protocol.img_size)
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    return float(counter.get_total_flops())


def images_seen(protocol: Protocol, arm: Arm, fraction: float, images: Mapping[str, int]) -> float:
    """By the fine-tunings of one arm: every learner's, or one of all hospitals."""
    sites = protocol.learners if arm.learning == "alone" else protocol.hospitals
    return protocol.epochs[fraction] * fraction * sum(images[site] for site in sites)


def images_pretrained(protocol: Protocol, arm: Arm, images: Mapping[str, int]) -> float:
    """By the pretraining of one body; each learner's own takes as many steps as one of all hospitals."""
    bodies = len(protocol.learners) if arm.backbone == "home" else 1
    return float(bodies * protocol.pretraining["max_epochs"] * sum(images.values()))


def operations(
    protocol: Protocol, arms: Iterable[str], fractions: Iterable[float], images: Mapping[str, int],
    cost: Mapping[str, float],
) -> float:  # fmt: skip
    """Of one seed: a body is pretrained once, however many arms and shares of labels begin with it."""
    chosen = [ARMS[name] for name in arms]
    tuned = sum(images_seen(protocol, arm, fraction, images) for arm in chosen for fraction in fractions)
    bodies = {arm.backbone: arm for arm in chosen if arm.backbone}
    passes = sum(
        images_pretrained(protocol, arm, images) * cost["central" if arm.sees_images else "msdino"]
        for arm in bodies.values()
    )
    return passes + tuned * cost["fine_tuning"]


def counts(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--images", type=counts, nargs="+", default=[("nih14", 86_524), ("chexpert", 191_027)], metavar="NAME=NUMBER",
        help="training radiographs of each hospital; by default the official lists of two data sets, frontal ones",
    )  # fmt: skip
    parser.add_argument("--num_classes", type=int, default=7)
    parser.add_argument("--teraflops", type=float, default=100.0, help="a GPU sustains; an A100's third in bf16")
    arguments = parser.parse_args()
    started_on, images = machine(), dict(arguments.images)
    protocol = replace(SIZES["real"], hospitals=tuple(images), learners=tuple(images)[:2])
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))["results"]["cpu"]
    sides, batch = measured["sides"], measured["batch_size"]
    cost = {
        "msdino": 1e9 * sides["bundle's defaults, float32"]["gflop"] / batch,
        "central": 1e9 * sides["original DINO, float32"]["gflop"] / batch,
        "fine_tuning": fine_tuning_flops(protocol, arguments.num_classes),
    }
    here = 1e9 * sides["bundle's defaults, float32"]["gflop_per_second"]
    rows = []
    for what, (arms, fractions) in PARTS.items():
        total = operations(protocol, arms, fractions, images, cost)
        hours = {"gpu_hours": total / (1e12 * arguments.teraflops) / 3600, "cpu_days": total / here / 86_400}
        rows.append({"what": what, "operations": total, **hours})
    title = f"One seed, ViT-S/16 at {protocol.img_size} px; a GPU that sustains {arguments.teraflops:g} TFLOP/s"
    lines = [[row["what"], row["operations"] / 1e15, row["gpu_hours"], row["cpu_days"]] for row in rows]
    report(title, ("what", "PFLOP", "GPU hours", "days on these cores"), lines)
    per_image: dict[str, Any] = {"operations_per_image": cost, "measured_flops_per_second": here}
    save(arguments, started_on, {"rows": rows, **per_image})


if __name__ == "__main__":
    main()
