"""Small exports written without images, and whole runs of the pretraining bundle in this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from monai.bundle import ConfigWorkflow

from msdino_monai.networks import PatchEmbedding
from msdino_monai.pretraining import Checkpoints, DistillationTrainer
from msdino_monai.vault import ExportDescription, ExportWriter, TokenStore

TRAIN = Path(__file__).parents[2] / "bundles" / "cxr_msdino_pretraining" / "configs" / "train.json"
EMBEDDER = PatchEmbedding(img_size=24, patch_size=8, embedding_dim=8)
SMALL: dict[str, Any] = {
    "device": torch.device("cpu"),
    "allow_unsigned": True,
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "drop_path_rate": 0.3,
    "num_prototypes": 16,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "global_share": 0.75,
    "local_share": 0.4,
    "num_local": 2,
    "different_views": False,
    "hidden_share": 0.3,
    "hidden_channels": 0.75,
    "targets": "sinkhorn",
    "teacher_temperature": 0.05,
    "teacher_temperature_start": 0.05,
    "koleo_weight": 0.03,
    "token_weight": 0.0,
    "batch_size": 4,
    "max_epochs": 3,
    "warmup_epochs": 1,
    "learning_rate": 0.05,
    "weight_decay": 0.04,
    "clip": 3.0,
    "teacher_momentum": 0.5,
    "stop_on_collapse": False,
}


def tokens_of(image: int, num_views: int = 2) -> np.ndarray[Any, np.dtype[np.float16]]:
    """(V, K, D)"""
    shape = (num_views, EMBEDDER.num_tokens, EMBEDDER.embedding_dim)
    return np.random.default_rng(image).standard_normal(shape).astype(np.float16)


def write_export(
    folder: Path,
    site_id: str = "hospital_a",
    images: range = range(12),
    num_views: int = 2,
    poisoned: int | None = None,
    embedder: PatchEmbedding = EMBEDDER,
    signing_key: Path | None = None,
) -> Path:
    """An export as a hospital writes it; with `poisoned`, the tokens of that one image are not numbers."""
    description = ExportDescription(
        site_id, embedder.describe(), embedder.num_tokens, embedder.embedding_dim, num_views=num_views
    )
    state = folder.parent / f"{folder.name}.state"
    with ExportWriter(folder, state, description, images_per_shard=5, signing_key=signing_key) as writer:
        for image in images:
            writer.add(writer.state.salted_id(str(image), "image"), tokens_of(image, num_views))
            if image == poisoned:  # the writer refuses them at the front door
                writer._buffer.table["tokens"][writer._buffer.count - 1] = np.nan
    return folder


def store_of(*exports: Path, **settings: Any) -> TokenStore:
    return TokenStore(list(exports), allow_unsigned=True, **settings)


def workflow(dataset_dir: Path, output_dir: Path, **settings: Any) -> ConfigWorkflow:
    """The bundle, ready to be initialised."""
    return ConfigWorkflow(
        config_file=str(TRAIN),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(TRAIN.parents[1]),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        **{**SMALL, **settings},
    )


def begin(dataset_dir: Path, output_dir: Path, **settings: Any) -> tuple[ConfigWorkflow, DistillationTrainer]:
    """The bundle, initialised, and its trainer for a test to put its hand in."""
    flow = workflow(dataset_dir, output_dir, **settings)
    flow.initialize()
    return flow, flow.parser.get_parsed_content("train#trainer")


def train(dataset_dir: Path, output_dir: Path, **settings: Any) -> ConfigWorkflow:
    """One whole run."""
    flow, _ = begin(dataset_dir, output_dir, **settings)
    flow.run()
    flow.finalize()
    return flow


def checkpoints_of(flow: ConfigWorkflow) -> Checkpoints:
    found = flow.parser.get_parsed_content("checkpoints")
    assert isinstance(found, Checkpoints)
    return found


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    """What goes back to the hospitals."""
    return safetensors.torch.load_file(output_dir / "models" / "model.safetensors")


def student_weights(output_dir: Path) -> dict[str, torch.Tensor]:
    """The student's in the newest checkpoint."""
    newest = max((output_dir / "checkpoints").glob("checkpoint_*.pt"))
    return dict(torch.load(newest, weights_only=True)["parts"]["student"])


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert different == []


def curves(output_dir: Path) -> list[dict[str, str]]:
    """The rows of curves.csv without what a clock wrote."""
    rows = csv.DictReader((output_dir / "curves.csv").read_text().splitlines())
    return [{name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in rows]
