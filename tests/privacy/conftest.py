"""Radiographs to attack, radiographs of other people to learn from, and an export nobody defended."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from privacy_exports import UNDEFENDED, Sample

from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.transforms import LoadRadiograph


@pytest.fixture(scope="session")
def radiographs(tmp_path_factory: pytest.TempPathFactory, chest: Path) -> Path:
    """A real chest radiograph and three synthetic ones."""
    root = tmp_path_factory.mktemp("attacked")
    write_cohort(str(root / "cohort"), sites=1, patients_per_site=3, seed=7)
    (root / "images").mkdir()
    shutil.copy(chest, root / "images" / "real.dcm")
    for path in sorted((root / "cohort" / "site_a" / "images").iterdir())[:3]:
        shutil.copy(path, root / "images")
    return root / "images"


@pytest.fixture(scope="session")
def undefended(tmp_path_factory: pytest.TempPathFactory, radiographs: Path) -> Sample:
    """The bare shuffle: all dimensions, no margin, no augmentation; sealed, the orders kept."""
    return Sample(tmp_path_factory.mktemp("undefended")).write(radiographs, **UNDEFENDED)


@pytest.fixture(scope="session")
def pictures(radiographs: Path) -> np.ndarray:
    """The attacked radiographs (B, H, W): the real one first."""
    load = LoadRadiograph(224)
    files = sorted(radiographs.iterdir(), key=lambda path: path.name != "real.dcm")
    return np.stack([load(path).numpy()[0] for path in files])


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Small radiographs (B, 1, 64, 64) of other synthetic people."""
    root = tmp_path_factory.mktemp("auxiliary")
    write_cohort(str(root), sites=2, patients_per_site=10, seed=11, image_size=96)
    load = LoadRadiograph(64)
    return torch.stack([load(path).as_tensor() for path in sorted(root.rglob("*.dcm"))])
