"""Running bundles as users do: through MONAI's workflow in this process, or through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

BUNDLES = Path(__file__).parents[2] / "bundles"
EXPORT = BUNDLES / "cxr_embedding_export"
SMALL = {"img_size": 64, "embedding_dim": 16, "num_workers": 0, "images_per_shard": 4}


def workflow(bundle: Path, config: str = "inference.json", **settings: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(bundle / "configs" / config),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
        **settings,
    )


def export(dataset_dir: Path, output_dir: Path, site_id: str = "hospital_a", **settings: Any) -> None:
    """One whole run of the export bundle in this process."""
    flow = workflow(
        EXPORT, dataset_dir=str(dataset_dir), output_dir=str(output_dir), site_id=site_id, **{**SMALL, **settings}
    )
    flow.initialize()
    flow.run()
    flow.finalize()


def command(bundle: Path, *flags: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle run` on the bundle's inference.json, in a folder of its own."""
    start = [sys.executable, "-m", *launcher, "monai.bundle"] if not launcher else [sys.executable, "-m", *launcher]
    given = [*start, "run", "--config_file", bundle / "configs/inference.json", "--bundle_root", bundle, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, given)), capture_output=True, text=True, env=environment, check=False)
