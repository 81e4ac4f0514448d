"""Train a segmenter of lungs, then use its network in your own loop, without the bundle's engine.

python examples/cxr_segmentation.py --dataset_dir cohort/site_a --image some.dcm --output_dir out --max_epochs 5
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import torch
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cxr_segmentation"


def train_and_segment(dataset_dir: str, image: str, output_dir: str, **settings: Any) -> dict[str, float]:
    """`settings` are any of the training's. Returns each class's share of the picture."""
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

    inference = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(BUNDLE),
        model=str(Path(output_dir) / "models" / "model.pt"),
    )
    # Parts of a bundle can be had one by one; nothing else of it is made.
    part = inference.parser.get_parsed_content
    prepare, network, task = part("preprocessing"), part("network_def"), part("task_def")
    network.load_state_dict(torch.load(Path(output_dir) / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        scores = network.eval()(prepare({"image": image})["image"][None].as_tensor())  # (1, 1, H, W) -> (1, C, H, W)
    mask = scores.argmax(1)
    return {name: float((mask == number).float().mean()) for number, name in enumerate(task.classes, start=1)}


if __name__ == "__main__":
    fire.Fire(train_and_segment)
