"""A bundle as this room sees it: a folder whose configuration says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError

METADATA = "configs/metadata.json"
MODEL = "models/model.pt"
# What runs leave in a bundle that nobody ships.
RUN_OUTPUT = ("eval", "checkpoints", "cache", "tensorboard", "__pycache__")
# The same, beside the folders of a bundle; in `docs` a picture belongs to it.
_RESULTS = ("*.csv", "*.png", "*.npy", "metrics.json", "predictions.json", "run.json", "mlruns.db")


class Bundle:
    """A folder with `configs/metadata.json`; refused with one line where that is missing or no JSON."""

    def __init__(self, root: str | Path) -> None:
        if not str(root).strip():
            raise UserError("the name of a bundle is empty; name its folder.")
        self.root = Path(str(root)).expanduser().resolve()
        if not self.root.is_dir():
            raise UserError(f"{root} is no folder; name a bundle's folder.")
        self.name = self.root.name
        self.metadata = self.config("metadata")
        self.version = str(self.metadata.get("version", ""))

    def config(self, name: str) -> dict[str, Any]:
        """One of the bundle's JSON configurations."""
        path = self.config_file(name)
        if not path.is_file():
            raise UserError(f"{self.name}: configs/{name}.json is missing; it belongs to every such bundle.")
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{self.name}: configs/{name}.json is no JSON ({error}); mend it.") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.name}: configs/{name}.json must be a JSON object; mend it.")
        return content

    def config_file(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.json"

    def has(self, name: str) -> bool:
        """Whether there is a configuration of this name."""
        return self.config_file(name).is_file()

    @property
    def model(self) -> Path:
        return self.root / MODEL

    @cached_property
    def needs_weights(self) -> bool:
        """Whether inference reads the bundle's weights; an embedding that is drawn from a seed does not."""
        return "models/" in json.dumps(self.config("inference"))

    @cached_property
    def image(self) -> dict[str, Any]:
        """What the metadata says of the network's input."""
        try:
            image = dict(self.metadata["network_data_format"]["inputs"]["image"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.name}: metadata.json has no network_data_format#inputs#image; add it.") from None
        for field in ("num_channels", "spatial_shape"):
            if not image.get(field):
                raise UserError(f"{self.name}: metadata.json's inputs#image has no {field}; add it.")
        return image

    @property
    def has_volumes(self) -> bool:
        return len(self.image["spatial_shape"]) == 3

    @property
    def trains_on_exports(self) -> bool:
        return "exports" in str(self.metadata.get("data_type", ""))

    def monai_files(self, config: str = "inference") -> dict[str, str]:
        """What MONAI's own functions want to know of a bundle."""
        return {
            "meta_file": str(self.root / METADATA),
            "config_file": str(self.config_file(config)),
            "bundle_root": str(self.root),
        }

    def copy(self, folder: Path, leave_out: Sequence[str] = RUN_OUTPUT) -> Bundle:
        """A copy under its own name in `folder`, without what runs left in it."""
        everywhere, results = shutil.ignore_patterns(*leave_out), shutil.ignore_patterns(*_RESULTS)

        def ignored(place: str, names: list[str]) -> set[str]:
            return everywhere(place, names) | (results(place, names) if Path(place) == self.root else set())

        shutil.copytree(self.root, folder / self.name, symlinks=True, ignore=ignored)
        return Bundle(folder / self.name)
