"""Export radiographs as shuffled, sealed embeddings, as a hospital's own program would.

python examples/cxr_embedding_export.py --dataset_dir radiographs --output_dir export --recipient age1...
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fire
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cxr_embedding_export"


def export(
    dataset_dir: str, output_dir: str, recipient: str, site_id: str = "hospital_a", **settings: Any
) -> dict[str, Any]:
    """`settings` are any of the bundle's. Returns the manifest's counts. Only `output_dir` leaves the hospital."""
    flow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(BUNDLE),
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        recipient=recipient,
        site_id=site_id,
        **settings,
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    counts: dict[str, Any] = json.loads((Path(output_dir) / "manifest.json").read_text())["counts"]
    return counts


if __name__ == "__main__":
    fire.Fire(export)
