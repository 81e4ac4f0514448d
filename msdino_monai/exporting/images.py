"""Which images an export is made of, and which of them this run still has to do."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.files import find_images
from msdino_monai.vault import ExportState


def list_images(dataset_dir: str | Path, datalist: str | Path | None = None) -> list[dict[str, Any]]:
    """The images of a MONAI datalist (all its sections), or all that lie below `dataset_dir`."""
    if not dataset_dir:
        raise UserError("missing --dataset_dir; give the folder that holds the radiographs.")
    if datalist is None:
        return [{"image": image, "patient": ""} for image in find_images(dataset_dir)]
    try:
        sections = json.loads(Path(datalist).read_text(encoding="utf-8"))
        items = [item for section in ("training", "validation", "test") for item in sections.get(section, [])]
        images = [{"image": str(item["image"]), "patient": str(item.get("patient", ""))} for item in items]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"datalist {datalist} cannot be read ({error!r}); see MONAI's datalist format.") from error
    if not images:
        raise UserError(f"datalist {datalist} names no images; it needs training, validation or test entries.")
    for item in images:
        path = PurePosixPath(item["image"])
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"datalist {datalist} reaches outside dataset_dir; write paths relative to it.")
    return images


class ImagesToExport(UsableImages):
    """All images of the folder, then only those that an earlier run has not finished."""

    def leave_out(self, finished: Collection[bytes], state: ExportState) -> int:
        """Drop finished images; the rest is put in the order of their salted ids. Returns how many remain.

        Neighbours in a folder are often one patient's images, in the order of time; salted ids tell nothing.
        """
        named = {state.salted_id(item["image"], "image"): item for item in self.data}
        self.data = [named[image_id] for image_id in sorted(named.keys() - set(finished))]
        return len(self.data)


def state_dir_of(output_dir: str | Path, state_dir: str | Path | None) -> str:
    """Where the hospital keeps what it needs to continue: beside the export unless it says otherwise."""
    return str(state_dir or f"{str(output_dir).rstrip('/')}.state")
