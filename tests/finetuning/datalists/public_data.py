"""Small imitations of public data sets as they lie on disk, oddities included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def draw(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 100, dtype=np.uint8) if pixels is None else pixels).save(path)
    return path


def write_nih14(
    root: Path, rows: Mapping[str, str], test: Sequence[str], ending: str = "\n", table: str = "Data_Entry_2017.csv"
) -> Path:
    """`rows`: image name to finding labels; the patient is the name's number, as in the original."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{name},{labels},0,{int(name.split('_')[0])},058Y,M,PA,2682,2749,0.143,0.143," for name, labels in rows.items()
    ]
    (root / table).write_bytes(ending.join([NIH_HEADER, *lines, ""]).encode())
    (root / "train_val_list.txt").write_bytes(ending.join(name for name in rows if name not in test).encode())
    (root / "test_list.txt").write_bytes(ending.join(test).encode())
    for number, name in enumerate(rows):
        draw(root / f"images_{1 + number % 12:03d}" / "images" / name)
    return root


def chexpert_row(patient: int, study: int = 1, view: str = "Frontal", part: str = "train", **labels: str) -> str:
    """A row as in train.csv; `labels` by name, underscores for blanks."""
    names = CHEXPERT_HEADER.split(",")[5:]
    values = [labels.get(name.replace(" ", "_"), "") for name in names]
    path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/view1_{view.lower()}.jpg"
    return ",".join([path, "Female", "68", view, "AP" if view == "Frontal" else "", *values])


def write_chexpert(root: Path, train: Sequence[str], valid: Sequence[str], ending: str = "\n") -> Path:
    for name, rows in {"train.csv": train, "valid.csv": valid}.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(ending.join([CHEXPERT_HEADER, *rows, ""]).encode())
        for row in rows:
            draw(root / row.split(",")[0].partition("/")[2])
    return root


def write_montgomery(root: Path, names: Sequence[str], left_on_pictures_right: bool = True) -> Path:
    for name in names:
        low, high = np.zeros((12, 20), dtype=np.uint8), np.zeros((12, 20), dtype=np.uint8)
        low[2:10, 3:8], high[2:10, 12:16] = 255, 255
        left, right = (high, low) if left_on_pictures_right else (low, high)
        draw(root / "CXR_png" / f"{name}.png", np.full((12, 20), 90, dtype=np.uint8))
        draw(root / "ManualMask" / "leftMask" / f"{name}.png", left)
        draw(root / "ManualMask" / "rightMask" / f"{name}.png", right)
        reading = root / "ClinicalReadings" / f"{name}.txt"
        reading.parent.mkdir(exist_ok=True)
        reading.write_text("Patient's Sex: F\nPatient's Age: 026Y\nnormal\n")
    return root


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def patients(content: Mapping[str, Any]) -> dict[str, set[str]]:
    """Who is in which section."""
    return {name: {item["patient"] for item in content[name]} for name in ("training", "validation", "test")}
