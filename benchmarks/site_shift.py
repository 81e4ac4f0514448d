"""Does a network trained on one hospital of the SYNTHETIC cohort do worse on another?

    python benchmarks/site_shift.py --output_file docs/benchmarks/site_shift.json

A small residual network learns the findings of site A's training split for a fixed number of epochs: nothing is picked
on any other split. It is then tried on site A's test split, on all that it has not seen of site A (validation and
test), and on all of site B. So that hard images are not taken for a shift, networks trained on site B's own training
split stand beside. Intervals are 95 % bootstrap intervals over patients, of the mean over training seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from measuring import machine, parser_of, report, save
from monai.networks.nets import ResNet

from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.transforms import LoadRadiograph

SECTIONS = {
    "training": ("training",),
    "test": ("test",),
    "unseen": ("validation", "test"),
    "all": ("training", "validation", "test"),
}
DROPS = (
    ("A -> A, test", "A -> B, all"),
    ("A -> A, validation + test", "A -> B, all"),
    ("B -> B, validation + test", "A -> B, validation + test"),
)

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Images (n, 1, H, W), labels (n, C), and whose they are."""

    images: torch.Tensor
    labels: torch.Tensor
    patients: npt.NDArray[np.str_]


def read_split(site: Path, sections: tuple[str, ...], img_size: int) -> Split:
    datalist = json.loads((site / "datalist.json").read_text(encoding="utf-8"))
    items = [item for section in sections for item in datalist[section]]
    load = LoadRadiograph(img_size)
    return Split(
        torch.stack([load(site / item["image"]).as_tensor() for item in items]),
        torch.tensor([item["label"] for item in items], dtype=torch.float32),
        np.array([item["patient"] for item in items]),
    )


def augment(images: torch.Tensor) -> torch.Tensor:
    """Light: turns, zoom, shifts and gamma, drawn for each image."""
    count = len(images)
    angle, zoom = torch.empty(count).uniform_(-0.1, 0.1), torch.empty(count).uniform_(0.9, 1.1)
    shift = torch.empty(count, 2).uniform_(-0.08, 0.08)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)  # (n, 2, 3) -> (n, H, W, 2)
    moved = F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
    return moved ** torch.empty(count, 1, 1, 1).uniform_(0.8, 1.25)


def train(split: Split, seed: int, arguments: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(seed)
    network: torch.nn.Module = ResNet(
        "basic", [1, 1, 1, 1], [16, 32, 64, 128], spatial_dims=2, n_input_channels=1, conv1_t_size=5, conv1_t_stride=2,
        num_classes=split.labels.shape[1],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=0.05)
    batches = math.ceil(len(split.images) / arguments.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=batches * arguments.epochs
    )
    for _ in range(arguments.epochs):
        for chosen in torch.randperm(len(split.images)).tensor_split(batches):
            loss = F.binary_cross_entropy_with_logits(network(augment(split.images[chosen])), split.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def predict(network: torch.nn.Module, split: Split) -> Scores:
    return np.asarray(torch.cat([network(part) for part in split.images.split(64)]).numpy())


def auc(scores: Scores, labels: npt.NDArray[np.bool_]) -> float:
    """Share of (positive, negative) pairs in the right order; NaN without both."""
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return math.nan
    return float(np.sign(positive[:, None] - negative).mean() / 2 + 0.5)


def aucs(scores: list[Scores], split: Split, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The AUC of each finding (C,), averaged over the training seeds."""
    labels = split.labels.numpy()[rows] > 0.5
    table = [[auc(one[rows, finding], labels[:, finding]) for finding in range(labels.shape[1])] for one in scores]
    return np.mean(table, axis=0)


def bootstrap(scores: list[Scores], split: Split, repeats: int, seed: int) -> npt.NDArray[np.float64]:
    """AUCs (repeats, C) with patients drawn again, all of a patient's images together."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(split.patients == patient) for patient in np.unique(split.patients)]
    draws = (rng.integers(0, len(rows_of), len(rows_of)) for _ in range(repeats))
    return np.array([aucs(scores, split, np.concatenate([rows_of[k] for k in draw])) for draw in draws])


def summary(scores: list[Scores], split: Split, findings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    every = np.arange(len(split.patients))
    point, resampled = aucs(scores, split, every), bootstrap(scores, split, arguments.bootstrap, arguments.seed)
    usable = ~np.isnan(point)
    mean = np.nanmean(resampled[:, usable], axis=1)
    return {
        "images": len(every),
        "patients": len(np.unique(split.patients)),
        "mean_auc": float(point[usable].mean()),
        "interval": np.quantile(mean, [0.025, 0.975]).tolist(),
        "mean_auc_per_training_seed": [float(np.nanmean(aucs([one], split, every))) for one in scores],
        "skipped_for_want_of_both_classes": [name for name, use in zip(findings, usable, strict=True) if not use],
        "findings": {
            name: {
                "positive": int(split.labels[:, column].sum()),
                "auc": float(point[column]),
                "interval": np.nanquantile(resampled[:, column], [0.025, 0.975]).tolist(),
            }
            for column, name in enumerate(findings)
            if usable[column]
        },
        "_resampled": mean,
    }


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    write_cohort(str(folder), 2, arguments.patients_per_site, arguments.seed, arguments.image_size)
    findings = json.loads((folder / "site_a" / "datalist.json").read_text(encoding="utf-8"))["labels"]
    a, b = (
        {name: read_split(folder / site, sections, arguments.img_size) for name, sections in SECTIONS.items()}
        for site in ("site_a", "site_b")
    )
    written = time.perf_counter() - start
    on_a = [train(a["training"], seed, arguments) for seed in arguments.training_seeds]
    on_b = [train(b["training"], seed, arguments) for seed in arguments.training_seeds]
    trials = {
        "A -> A, training (seen)": (on_a, a["training"]),
        "A -> A, test": (on_a, a["test"]),
        "A -> A, validation + test": (on_a, a["unseen"]),
        "A -> B, all": (on_a, b["all"]),
        "A -> B, validation + test": (on_a, b["unseen"]),
        "B -> B, validation + test": (on_b, b["unseen"]),
    }
    results = {
        name: summary([predict(network, split) for network in networks], split, findings, arguments)
        for name, (networks, split) in trials.items()
    }
    drawn = {name: result.pop("_resampled") for name, result in results.items()}
    drops = {
        f"{first} minus {second}": {
            "drop": results[first]["mean_auc"] - results[second]["mean_auc"],
            "interval": np.quantile(drawn[first] - drawn[second], [0.025, 0.975]).tolist(),
        }
        for first, second in DROPS
    }
    return {
        "training_images": {"A": len(a["training"].images), "B": len(b["training"].images)},
        "parameters": sum(weight.numel() for weight in on_a[0].parameters()),
        "auc": results,
        "drops": drops,
        "seconds": {"cohort and decoding": written, "training and trials": time.perf_counter() - start - written},
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--patients_per_site", type=int, default=200)
    parser.add_argument("--image_size", type=int, default=512, help="of the cohort's files")
    parser.add_argument("--img_size", type=int, default=128, help="of the network's input")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--training_seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; more wait for each other where cores are shared"
    )
    parser.add_argument("--cohort_dir", type=Path, help="keep the cohort here, or take it from here")
    arguments = parser.parse_args()
    started_on = machine()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments.cohort_dir or Path(folder, "cohort"), arguments)
    rows = []
    for name, result in results["auc"].items():
        low, high = result["interval"]
        rows.append([name, result["images"], "mean", result["mean_auc"], f"{low:.3f} to {high:.3f}"])
        rows += [
            ["", f"{found['positive']} positive", finding, found["auc"], "{:.3f} to {:.3f}".format(*found["interval"])]
            for finding, found in result["findings"].items()
        ]
        if result["skipped_for_want_of_both_classes"]:
            rows.append(["", "", f"skipped: {result['skipped_for_want_of_both_classes']}", "", ""])
    report("ROC AUC on the SYNTHETIC cohort", ["trained -> tried on", "images", "finding", "AUC", "95 %"], rows)
    for name, drop in results["drops"].items():
        print("{}: {:.3f} ({:.3f} to {:.3f})".format(name, drop["drop"], *drop["interval"]))
    print({name: round(value, 1) for name, value in results["seconds"].items()})
    save(arguments, started_on, results)


if __name__ == "__main__":
    main()
