"""What the tests of packages share: where the bundles lie, and how one's metadata is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parents[2] / "bundles"
CLASSES = ("bilateral_opacities", "consolidation", "effusion", "cardiomegaly", "pneumothorax", "nodule")


def change_metadata(root: Path, **changes: Any) -> None:
    """Other values in a bundle's metadata; None takes a field away."""
    path = root / "configs" / "metadata.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
