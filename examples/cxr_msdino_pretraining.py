"""Pretrain a body on hospitals' exports, then turn radiographs into features with it.

    python examples/cxr_msdino_pretraining.py --exports exports --images radiographs --output_dir out \
        --identity keys/coordinator_identity.txt --trusted_sites keys/trusted_sites
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import numpy as np
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cxr_msdino_pretraining"


def pretrain_and_embed(exports: str, images: str, output_dir: str, **settings: Any) -> np.ndarray:
    """`settings` are any of the training's. Returns one row of features for each radiograph."""
    training = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.json"),
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=exports,
        output_dir=output_dir,
        **settings,
    )
    training.initialize()
    training.run()
    training.finalize()

    features = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(BUNDLE),
        dataset_dir=images,
        output_dir=str(Path(output_dir) / "features"),
        backbone=str(Path(output_dir) / "models"),
        num_workers=0,
    )
    features.initialize()
    features.run()
    features.finalize()
    rows: np.ndarray = np.load(Path(output_dir) / "features" / "features.npy")
    return rows


if __name__ == "__main__":
    fire.Fire(pretrain_and_embed)
