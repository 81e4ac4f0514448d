"""Hospitals whose kidneys and tumours a tiny SAM with random weights can learn in seconds: bright and dark discs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SITES = ("site_a", "site_b", "site_c")
VOLUMES = (1, 2, 3)  # to train on, for each site: different weights in the average
CLASSES = ("kidney", "tumour")
_SHAPE = (32, 32, 5)


def write_sites(folder: Path) -> Path:
    for number, (name, count) in enumerate(zip(SITES, VOLUMES, strict=True)):
        content: dict[str, Any] = {"classes": CLASSES, "training": [], "validation": []}
        for index in range(count + 1):
            draw = np.random.default_rng([number, index])
            items = content["training" if index < count else "validation"]
            items.append(_write_volume(folder / name, index, draw))
        (folder / name / "datalist.json").write_text(json.dumps(content))
    return folder


def _write_volume(site: Path, index: int, draw: np.random.Generator) -> dict[str, str]:
    mask = np.zeros(_SHAPE, dtype=np.uint8)
    left = draw.uniform((7, 12), (10, 19))
    mask[_disc(left, 5.5)] = 1
    mask[_disc(draw.uniform((22, 12), (25, 19)), 5.5)] = 1
    mask[_disc(left + np.array((0, 2.5)), 2.8)] = 2
    values = np.select([mask == 1, mask == 2], [200.0, -120.0], 40.0) + draw.normal(0, 15, _SHAPE)
    item = {"image": f"{index}.nii.gz", "label": f"{index}_mask.nii.gz"}
    site.mkdir(parents=True, exist_ok=True)
    for name, content in ((item["image"], values.astype(np.float32)), (item["label"], mask)):
        nibabel.save(nibabel.Nifti1Image(content, np.diag((1.5, 1.5, 4, 1.0))), site / name)
    return {**item, "patient": f"{site.name}_{index}"}


def _disc(middle: Any, radius: float) -> np.ndarray:
    """The same in every slice: the slices of this SAM do not see each other."""
    points = np.indices(_SHAPE)[:2]
    return np.asarray(((points - np.reshape(middle, (2, 1, 1, 1))) ** 2).sum(axis=0) < radius**2)
