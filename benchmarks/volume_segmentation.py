"""Can a small network learn the kidneys and tumours of the SYNTHETIC volumes, and does it travel between sites?

    python benchmarks/volume_segmentation.py --output_file docs/benchmarks/volume_segmentation.json

A small 3D U-Net learns the middle (64 x 48 voxels of each slice) of the training sections of all sites, or of one, for
a fixed number of passes: nothing is picked on any other section. It is then tried on each site's validation and test
sections. Dice is the mean over the cases that have the class.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine, parser_of, report, save
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import CenterSpatialCropd, Compose, Orientationd, ScaleIntensityRanged

from msdino_monai.images.abdomen import CLASSES, write_volumes
from msdino_monai.images.volume import LoadVolumed, LoadVolumeMaskd

Cases = list[tuple[torch.Tensor, torch.Tensor]]


def read_cases(site: Path, sections: tuple[str, ...]) -> Cases:
    datalist = json.loads((site / "datalist.json").read_text(encoding="utf-8"))
    load = Compose(
        [
            LoadVolumed("image"),
            LoadVolumeMaskd("label", CLASSES),
            Orientationd(["image", "label"], "LPS", labels=None),
            ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True),
            CenterSpatialCropd(["image", "label"], (64, 48, -1)),
        ]
    )
    items = [{key: str(site / item[key]) for key in ("image", "label")} for s in sections for item in datalist[s]]
    return [(case["image"].as_tensor(), case["label"].as_tensor()) for case in map(load, items)]


def augment(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Light: brightness, contrast and shifts within the slices, drawn for the batch."""
    images = (images * torch.empty(1).uniform_(0.85, 1.15) + torch.empty(1).uniform_(-0.1, 0.1)).clamp(0, 1)
    shifts = torch.randint(-5, 6, (2,)).tolist()
    return images.roll(shifts, (2, 3)), labels.roll(shifts, (2, 3))


def train(cases: Cases, seed: int, arguments: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(seed)
    strides = [(2, 2, 1), (2, 2, 2), (2, 2, 2)]
    network: torch.nn.Module = UNet(3, 1, len(CLASSES) + 1, (8, 16, 32, 64), strides, num_res_units=1)
    loss_of = DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, lambda_dice=0.8, lambda_ce=0.2
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=0.01)
    batches = math.ceil(len(cases) / arguments.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=batches * arguments.epochs
    )
    for _ in range(arguments.epochs):
        for chosen in torch.randperm(len(cases)).tensor_split(batches):
            images, labels = (torch.stack([cases[index][part] for index in chosen]) for part in (0, 1))
            images, labels = augment(images, labels)
            loss = loss_of(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def dice(network: torch.nn.Module, cases: Cases) -> dict[str, Any]:
    """The mean over cases that have the class, and how many these are."""
    scores: dict[str, list[float]] = {name: [] for name in CLASSES}
    for image, label in cases:
        predicted = network(image[None]).argmax(1)
        for number, name in enumerate(CLASSES, start=1):
            truth, found = label == number, predicted == number
            if truth.any():
                scores[name].append(float(2 * (truth & found).sum() / (truth.sum() + found.sum())))
    return {name: {"dice": sum(each) / max(len(each), 1), "cases": len(each)} for name, each in scores.items()}


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    write_volumes(str(folder), arguments.sites, arguments.patients_per_site, seed=arguments.seed)
    sites = sorted(path for path in folder.iterdir() if path.is_dir())
    written = time.perf_counter() - start
    training = {site.name: read_cases(site, ("training",)) for site in sites}
    unseen = {site.name: read_cases(site, ("validation", "test")) for site in sites}
    pooled = [case for cases in training.values() for case in cases]
    results = {}
    for name, cases in {"all sites": pooled, **training}.items():
        network = train(cases, arguments.seed, arguments)
        results[name] = {
            "training_cases": len(cases),
            "tried_on": {site: dice(network, others) for site, others in unseen.items()},
        }
        print(name, results[name], flush=True)
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "results": results,
        "seconds": {"writing": written, "training and trials": time.perf_counter() - start - written},
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--patients_per_site", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; more wait for each other where cores are shared"
    )
    parser.add_argument("--volumes_dir", type=Path, help="keep the volumes here, or take them from here")
    arguments = parser.parse_args()
    started_on = machine()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments.volumes_dir or Path(folder, "volumes"), arguments)
    rows = [
        [trained, site, name, found["cases"], found["dice"]]
        for trained, result in results["results"].items()
        for site, classes in result["tried_on"].items()
        for name, found in classes.items()
    ]
    report("Dice on the SYNTHETIC volumes", ["trained on", "tried on", "class", "cases", "Dice"], rows)
    print({name: round(value, 1) for name, value in results["seconds"].items()})
    save(arguments, started_on, results)


if __name__ == "__main__":
    main()
