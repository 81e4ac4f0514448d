"""Train a classifier of chest radiographs on labelled images, then ask it about others.

python examples/cxr_classification.py --dataset_dir cohort/site_a --images new_images --output_dir out --max_epochs 5
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fire
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cxr_classification"


def train_and_infer(dataset_dir: str, images: str, output_dir: str, **settings: Any) -> dict[str, Any]:
    """`settings` are any of the training's: the README's table lists them. Returns what stands in predictions.json."""
    training = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.json"),
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        **settings,
    )
    training.initialize()
    print(f"{len(training.train_dataset)} labelled images")  # a part that MONAI names, and every bundle has
    training.run()
    training.finalize()

    inference = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(BUNDLE),
        dataset_dir=images,
        output_dir=str(Path(output_dir) / "predictions"),
        model=str(Path(output_dir) / "models" / "model.pt"),
        num_workers=0,
    )
    inference.initialize()
    inference.run()
    inference.finalize()
    found: dict[str, Any] = json.loads((Path(output_dir) / "predictions" / "predictions.json").read_text())
    return found


if __name__ == "__main__":
    fire.Fire(train_and_infer)
