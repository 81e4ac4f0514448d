"""Tiny synthetic data of the kind a bundle's metadata asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset

from msdino_monai.images.abdomen import write_volumes
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.transforms import LoadRadiographd
from msdino_monai.networks import PatchEmbedding
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.vault import ExportDescription, ExportWriter

_INFERRED = 2


def training_data(bundle: Bundle, folder: Path) -> Path:
    """A folder with a datalist, or with exports, as `dataset_dir` of the bundle's training."""
    if bundle.has_volumes:
        write_volumes(str(folder / "labelled"), sites=1, patients_per_site=4, size=32, slices=6)
    else:
        write_cohort(str(folder / "labelled"), sites=1, patients_per_site=6, image_size=64)
    site = folder / "labelled" / "site_a"
    return _write_export(site / "images", folder, bundle) if bundle.trains_on_exports else site


def inference_data(bundle: Bundle, folder: Path) -> Path:
    """A folder with two images."""
    if bundle.has_volumes:
        write_volumes(str(folder / "unseen"), sites=1, patients_per_site=_INFERRED, size=32, slices=5)
    else:
        write_cohort(str(folder / "unseen"), sites=1, patients_per_site=_INFERRED, image_size=64)
    images = folder / "images"
    images.mkdir()
    for path in sorted((folder / "unseen" / "site_a" / "images").iterdir())[:_INFERRED]:
        shutil.copy(path, images)
    return images


def _write_export(images: Path, folder: Path, bundle: Bundle) -> Path:
    """One hospital's unsigned export, of the image size that the metadata names."""
    img_size = int(bundle.image["spatial_shape"][0])
    embedding = PatchEmbedding(img_size, embedding_dim=16)
    description = ExportDescription(
        site_id="verify", embedder=embedding.describe(), num_tokens=embedding.num_tokens, embedding_dim=16
    )
    data = [{"image": str(path)} for path in sorted(images.iterdir())]
    loader = DataLoader(Dataset(data, LoadRadiographd("image", img_size=img_size)), batch_size=1)
    with ExportWriter(folder / "exports" / "verify", folder / "verify.state", description) as writer:
        for number, batch in enumerate(loader):
            tokens = embedding(batch["image"].as_tensor())  # (1, N, D), one view
            writer.add(number.to_bytes(16, "big"), tokens[:, torch.randperm(tokens.shape[1])].numpy())
    return folder / "exports"
