"""What the tests of packages share: where the bundles lie, small networks for them, and other metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parents[2] / "bundles"
CLASSES = ("bilateral_opacities", "consolidation", "effusion", "cardiomegaly", "pneumothorax", "nodule")
_SIZES = {"img_size": 32, "patch_size": 8, "hidden_size": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2}
# Networks of a few thousand numbers, as `model.network.json` describes them.
NETWORKS: dict[str, dict[str, Any]] = {
    "cxr_classification": _SIZES,
    "cxr_segmentation": {**_SIZES, "feature_size": 4},
    "sam_federated_segmentation": {"size": "tiny", "image_size": 32, "rank": 4, "num_slices": 5},
}


def change_metadata(root: Path, **changes: Any) -> None:
    """Other values in a bundle's metadata; None takes a field away."""
    path = root / "configs" / "metadata.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
