"""Small run folders as the runs leave them, written by the package's own writers where that is quick."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from msdino_monai.finetuning.classification.calibration import Calibration
from msdino_monai.finetuning.classification.evaluation import report
from msdino_monai.finetuning.classification.predictions import Cases
from msdino_monai.finetuning.segmentation.evaluation import summarise
from msdino_monai.images.cohort import write_cohort
from msdino_monai.table import as_csv
from msdino_monai.vault import ExportDescription, ExportWriter
from msdino_monai.vault.receive import receive

VIEWS, TOKENS, DIM = 2, 16, 8


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_picture(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32), shade, dtype=np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def write_export(folder: Path, site: str, images: int = 5) -> None:
    """A real export and its real receipt, unsealed and unsigned for speed."""
    description = ExportDescription(
        site_id=site,
        embedder={"seed": 0, "sha256": hashlib.sha256(b"an embedder").hexdigest()},
        num_tokens=TOKENS,
        embedding_dim=DIM,
        num_views=VIEWS,
        tools={"torch": "9.9.9"},
    )
    with ExportWriter(folder / "exports" / site, folder / "state" / site, description) as writer:
        for index in range(images):
            image = writer.state.salted_id(f"image {index}", "image")
            tokens = np.random.default_rng(index).standard_normal((VIEWS, TOKENS, DIM)).astype(np.float16)
            writer.add(image, tokens, patient=image)
    receive(str(folder / "exports" / site), str(folder / "receipts" / f"{site}.json"), allow_unsigned=True)


def write_pretraining(folder: Path, probes: bool = True) -> None:
    rows = [
        {"epoch": epoch, "loss": 9 - epoch, "dino": 5 - epoch / 2, "feature_rank": 4.0 + epoch, "kl": 1 / epoch}
        | ({"knn_auc": 0.5 + epoch / 20, "linear_auc": 0.6 + epoch / 20} if probes and epoch % 2 else {})
        for epoch in range(1, 5)
    ]
    (folder / "models").mkdir(parents=True)
    (folder / "curves.csv").write_text(as_csv(rows))
    content = {
        "body": {"num_layers": 4, "hidden_size": 128},
        "embedder": {"patch_size": 16, "margin": 2, "num_tokens": TOKENS},
        "settings": {"seed": 11},
        "trained": {"epochs": 4, "images": 10},
        "files": {"model.safetensors": {"bytes": 40_000}},
        "package_version": "0.1.0",
    }
    write_json(folder / "models" / "model.json", content)


def write_classification(folder: Path, seed: int, images: int = 24) -> None:
    generator = np.random.default_rng(seed)
    labels = (np.arange(images)[:, None] % [2, 3] == 0).astype(float)
    cases = Cases(
        tuple(f"{place:02d}.png" for place in range(images)),
        tuple(f"p{place}" for place in range(images)),
        generator.normal(size=(images, 2)) + labels,
        labels,
    )
    calibration = Calibration("multi_label", ("mass", "pleural_effusion"), 1.0, (0.5, 0.5))
    report(folder, cases, calibration, bootstrap_repeats=20, about={"section": "test"})
    description = {"network": {}, "task": "multi_label", "backbone": "b", "seed": seed, "package_version": "0.1.0"}
    chosen = {"epoch": 2, "validation": {"val_mean_auc": 0.75}}
    write_json(folder / "models" / "model.network.json", {**description, "chosen": chosen})


def write_segmentation(folder: Path) -> None:
    rows = [
        {"file": f"{place}.png", "patient": f"p{place}", "class": name, "dice": 0.5 + place / 20, "hd95": 4.0}
        | {"surface_distance": 1.0, "truth_pixels": 50, "predicted_pixels": 60, "lesions": 1, "found": 1}
        | {"false_alarms": 0, "unit": "mm"}
        for place in range(6)
        for name in ("right_lung", "left_lung")
    ]
    write_json(folder / "metrics.json", {"section": "test", **summarise(rows, ("right_lung", "left_lung"), 20, 0)})
    for name in ("best", "median", "worst"):
        write_picture(folder / f"overlay_{name}.png")


def write_curves(folder: Path, metric: str) -> None:
    """What a fine-tuning leaves beside its model."""
    rows = [{"epoch": epoch, "loss": 1 / epoch, metric: 0.5 + epoch / 20} for epoch in range(1, 4)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.csv").write_text(as_csv(rows))
    note = {"command": f"python -m monai.bundle run --output_dir '{folder.name}'", "seed": 3, "processes": 2}
    write_json(folder / "run.json", {**note, "hardware": "an abacus", "versions": {"torch": "8.8.8"}})


def write_predictions(folder: Path) -> None:
    entries = [
        {
            "file": f"{place}.png",
            "probabilities": {"mass": 0.5 + place / 10, "pleural_effusion": 0.2},
            "explanations": {"mass": f"explanations/{place}_mass.png"},
        }
        for place in range(3)
    ]
    for place in range(3):
        write_picture(folder / "explanations" / f"{place}_mass.png", 60 + place)
    write_json(folder / "predictions.json", {"predictions": entries})


def write_federation(folder: Path) -> None:
    sites = ["site_a", "site_b"]
    answer = {"images": 3, "metrics": {"val_mean_dice": 0.1}, "seconds": 1.0, "error": None}
    lost = {**answer, "error": "not heard of for 60 s"}
    directions = ("to_site", "to_server")
    content = {
        "name": "sam",
        "bundle": "sam_federated_segmentation",
        "sites": sites,
        "rounds": 2,
        "strategy": "flap",
        "transport": "int8",
        "key_metric": "val_mean_dice",
        "history": [
            {"round": 1, "aggregated": 2, "of": 2, "sites": dict.fromkeys(sites, answer), "seconds": 2.5},
            {"round": 2, "aggregated": 1, "of": 2, "sites": {"site_a": answer, "site_b": lost}, "seconds": 2.0},
        ],
        "validation": [
            {
                "round": number,
                "sites": {site: {"val_mean_dice": 0.1 * number} for site in sites},
                "mean": {"val_mean_dice": 0.1 * number},
            }
            for number in range(3)
        ],
        "traffic": [
            {"round": number, "site": site, "direction": way, "tensor_bytes": 900, "wire_bytes": 1000}
            for number in (1, 2)
            for site in sites
            for way in directions
        ],
        "best": {"round": 2, "score": 0.2, "metric": "val_mean_dice"},
        "stopped": None,
        "complete": True,
    }
    write_json(folder / "federated.json", content)


def write_audit(folder: Path, result: str = "fail") -> None:
    check = {"threshold": "max_neighbour_accuracy", "limit": 0.2, "figure": 0.97, "upper": 0.99}
    row = {"attack": "jigsaw, one view", "metric": "neighbours", "figure": 0.97, "interval": [0.9, 0.99]}
    knows = {"order": False, "auxiliary_images": True, "embedder": True}
    content = {
        "verdict": {"result": result, "checks": [{**check, "attack": "jigsaw, one view", "met": result == "pass"}]},
        "images": {"exported": 12, "reconstructed": 4},
        "rows": [{**row, "chance": 0.02, "worst": 1.0, "n": 4, "seed": 0, "knows": knows}],
        "versions": {"torch": "9.9.9"},
    }
    write_json(folder / "audit.json", content)
    for name in ("01_0_exported", "01_1"):
        write_picture(folder / "pictures" / f"{name}.png")


def write_everything(root: Path, synthetic: bool = True) -> None:
    if synthetic:
        write_cohort(str(root / "cohort"), sites=1, patients_per_site=2, image_size=64)
    write_json(root / "survey" / "survey.json", {"files": 6, "usable": 5, "quarantined": 1, "flagged": 0})
    write_picture(root / "survey" / "contact_sheet.png")
    write_export(root, "hospital_a")
    write_export(root, "hospital_b", images=3)
    write_pretraining(root / "pretraining")
    write_classification(root / "classification", 0)
    write_classification(root / "classification_from_scratch", 1)
    write_segmentation(root / "lungs")
    write_curves(root / "classification", "val_mean_auc")
    write_curves(root / "lungs", "val_mean_dice")
    write_predictions(root / "findings")
    write_federation(root / "federation")
    write_audit(root / "audit")
    (root / "commands.txt").write_text("python -m msdino_monai cohort --output_dir 'a & b'\n")
