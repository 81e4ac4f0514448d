"""Exports as a hospital writes them, and the keys to open and to judge them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow

from msdino_monai.exporting.images import fingerprint
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.privacy.evidence import Evidence, open_evidence
from msdino_monai.privacy.truth import read_orders
from msdino_monai.vault import ExportState
from msdino_monai.vault.keygen import keygen

BUNDLE = Path(__file__).parents[2] / "bundles" / "cxr_embedding_export"
PLAIN_VIEWS = {"_target_": "Compose", "transforms": []}
UNDEFENDED = {"embedding_dim": 384, "margin": 0, "noise": 0.0, "augment": PLAIN_VIEWS}


@dataclass(frozen=True)
class Sample:
    """An export of some images, and what its hospital knows of it."""

    folder: Path

    def write(self, images: Path, **settings: Any) -> Sample:
        keygen(str(self.folder / "coordinator"), "coordinator")
        keygen(str(self.folder / "orders"), "orders")
        given = {"img_size": 224, "num_workers": 0, "site_id": "hospital_a", **settings}
        flow = ConfigWorkflow(
            config_file=str(BUNDLE / "configs" / "inference.json"),
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="inference",
            bundle_root=str(BUNDLE),
            dataset_dir=str(images),
            output_dir=str(self.folder / "export"),
            recipient=(self.folder / "coordinator" / "coordinator_recipient.txt").read_text().strip(),
            order_recipients=(self.folder / "orders" / "orders_recipient.txt").read_text().strip(),
            **given,
        )
        flow.initialize()
        flow.run()
        flow.finalize()
        return self

    def evidence(self) -> Evidence:
        identity = self.folder / "coordinator" / "coordinator_identity.txt"
        return open_evidence(self.folder / "export", identity=identity, cache_dir=self.folder / "cache")

    def orders(self) -> dict[bytes, np.ndarray]:
        return read_orders(self.folder / "export.state", self.folder / "orders" / "orders_identity.txt")

    def pictures(self, images: Path) -> dict[bytes, np.ndarray]:
        """The pictures (H, W) that were exported without augmentation, by salted id."""
        state, load = ExportState(self.folder / "export.state"), LoadRadiograph(224)
        files = [path for path in images.rglob("*") if path.is_file()]
        return {state.salted_id(fingerprint(path), "image"): load(path).numpy()[0] for path in files}
