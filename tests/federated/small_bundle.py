"""A bundle small enough to federate in seconds, and sites that misbehave when a test asks them to."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.metrics import Accuracy
from torch import nn

from msdino_monai.federated import Site

SITES = ("hospital_a", "hospital_b", "hospital_c")
LONG = 12  # seconds: more than the simulated sites may be silent


class Adapted(nn.Module):
    """A frozen linear layer with a LoRA pair on it."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs), requires_grad=False)
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.weight.T + rows @ self.lora_a.T @ self.lora_b.T


class SmallNetwork(nn.Module):
    """A frozen layer with an adapter, and a trained head; (B, 12) -> (B, 3)."""

    def __init__(self, rank: int = 2, width: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base, self.head = Adapted(12, width, rank), nn.Linear(width, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        nn.init.zeros_(self.base.lora_b)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.base(image)))


def items(dataset_dir: str, section: str) -> list[dict[str, torch.Tensor]]:
    """What a site's datalist.json says there is."""
    listed = json.loads((Path(dataset_dir) / "datalist.json").read_text())[section]
    return [
        {"image": torch.tensor(np.load(Path(dataset_dir) / each["image"])), "label": torch.tensor(each["label"])}
        for each in listed
    ]


def write_sites(folder: Path, sizes: Mapping[str, int] | None = None) -> Path:
    """Three hospitals whose images follow one rule, seen through different noise."""
    rule = np.random.default_rng(0).normal(size=(12, 3))
    for number, (name, size) in enumerate((sizes or dict(zip(SITES, (24, 32, 40), strict=True))).items()):
        draw = np.random.default_rng(number + 1)
        site = folder / name
        site.mkdir(parents=True)
        sections: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
        for index in range(size + 30 if size else 0):
            image = draw.normal(size=12).astype(np.float32)
            np.save(site / f"{index}.npy", image)
            label = int(np.argmax(image @ rule + 0.1 * number))
            sections["training" if index < size else "validation"].append({"image": f"{index}.npy", "label": label})
        (site / "datalist.json").write_text(json.dumps(sections))
    return folder


def accuracy() -> Accuracy:
    def columns(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([row["pred"] for row in rows]), torch.as_tensor([int(row["label"]) for row in rows])

    return Accuracy(output_transform=columns)


TRAIN = {
    "imports": ["$import torch", "$import small_bundle"],
    "bundle_root": ".",
    "dataset_dir": None,
    "output_dir": None,
    "learning_rate": 0.02,
    "rank": 2,
    "width": 16,
    "fault": "",
    "device": "cpu",
    "max_epochs": 2,
    "network_def": {"_target_": "small_bundle.SmallNetwork", "rank": "@rank", "width": "@width"},
    "network": "$@network_def.to(@device)",
    "optimizer": {
        "_target_": "torch.optim.AdamW",
        "params": "$@network.parameters()",
        "lr": "@learning_rate",
    },
    "train": {
        "dataset": {"_target_": "Dataset", "data": "$small_bundle.items(@dataset_dir, 'training')"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 8, "shuffle": True},
        "inferer": {"_target_": "SimpleInferer"},
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@max_epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": {"_target_": "torch.nn.CrossEntropyLoss"},
            "inferer": "@train#inferer",
            "decollate": False,
        },
    },
    "validate": {
        "dataset": {"_target_": "Dataset", "data": "$small_bundle.items(@dataset_dir, 'validation')"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 8},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@train#inferer",
            "key_val_metric": {"accuracy": "$small_bundle.accuracy()"},
        },
    },
    "initialize": [],
    "run": ["$@train#trainer.run()"],
}

FEDERATED = {
    "rounds": 1,
    "local_epochs": 1,
    "trainable_pattern": None,
    "max_epochs": "$@rounds * @local_epochs",
    "federated_site": {
        "_target_": "small_bundle.FaultySite",
        "network": "@network",
        "trainer": "@train#trainer",
        "evaluator": "@validate#evaluator",
        "key_metric": "accuracy",
        "local_epochs": "@local_epochs",
        "trainable_pattern": "@trainable_pattern",
        "fault": "@fault",
        "name": "$@dataset_dir.rpartition('/')[2]",
    },
}


class FaultySite(Site):
    """A `Site` with faults like `hospital_b:2:nan`: at that hospital, in that round, that happens; `;` between them."""

    def __init__(self, *arguments: Any, fault: str = "", name: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        faults = [each.split(":") for each in fault.split(";") if each]
        self.faults = {int(when): what for where, when, what in faults if where == name}

    def train(self, tensors: Mapping[str, torch.Tensor], round_number: int) -> dict[str, torch.Tensor]:
        trained = super().train(tensors, round_number)
        what = self.faults.get(round_number)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise RuntimeError("the disk is on fire")
        if what == "nan":
            trained["head.bias"][0] = float("nan")
        if what == "shape":
            trained["head.bias"] = trained["head.bias"][:2]
        if what == "long":
            time.sleep(LONG)
        if what == "slow":
            time.sleep(60)
        return trained


def write_bundle(folder: Path) -> Path:
    """The bundle's folder."""
    configs = folder / "small_bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.json").write_text(json.dumps(TRAIN))
    (configs / "federated.json").write_text(json.dumps(FEDERATED))
    (configs / "metadata.json").write_text(json.dumps({"version": "0.0.1"}))
    return configs.parent
