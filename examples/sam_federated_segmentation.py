"""Adapt SAM to volumes in one hospital, then segment others. `python -m msdino_monai federate` does it over several.

python examples/sam_federated_segmentation.py --dataset_dir volumes/site_a --images new_volumes --output_dir out
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "sam_federated_segmentation"


def adapt_and_segment(dataset_dir: str, images: str, output_dir: str, **settings: Any) -> list[Path]:
    """`settings` are any of the training's. Returns the masks' files, each on its volume's own grid."""
    training = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.json"),
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        **settings,
    )
    training.initialize()
    training.run()
    training.finalize()

    masks = Path(output_dir) / "masks"
    inference = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(BUNDLE),
        dataset_dir=images,
        output_dir=str(masks),
        model=str(Path(output_dir) / "models" / "model.pt"),
        num_workers=0,
    )
    inference.initialize()
    inference.run()
    inference.finalize()
    return sorted(masks.rglob("*_mask.nii.gz"))


if __name__ == "__main__":
    fire.Fire(adapt_and_segment)
