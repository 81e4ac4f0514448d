"""Which images an export is made of, and which of them this run still has to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.files import existing_folder, find_images
from msdino_monai.images.transforms import only_file
from msdino_monai.vault import ExportState

SECTIONS = ("training", "validation", "test")
_BLOCK = 1 << 16


def list_images(
    dataset_dir: str | Path,
    datalist: str | Path | None = None,
    leave_out: Iterable[str | Path] = (),
    sections: str | Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The images of a MONAI datalist, of all its sections or of those named, or all that lie below `dataset_dir`."""
    root, own = existing_folder(dataset_dir).resolve(), [Path(folder).expanduser().resolve() for folder in leave_out]
    if around := next((folder for folder in own if root.is_relative_to(folder)), None):
        raise UserError(f"dataset_dir {dataset_dir} lies in {around}, where the output goes; name another output_dir.")
    wanted = _sections(sections, datalist)
    if datalist is None:
        return [{"image": image, "patient": ""} for image in find_images(dataset_dir, own)]
    try:
        listed = json.loads(Path(str(datalist)).expanduser().read_text(encoding="utf-8-sig"))
        items = [item for section in wanted for item in listed.get(section, [])]
        images = [{"image": str(item["image"]), "patient": _patient(item)} for item in items]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"datalist {datalist} cannot be read ({error!r}); see MONAI's datalist format.") from error
    if not images:
        raise UserError(f"datalist {datalist} names no images; it needs {' or '.join(wanted)} entries.")
    for item in images:
        path = PurePosixPath(item["image"])
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"datalist {datalist} reaches outside dataset_dir; write paths relative to it.")
    return images


def _patient(item: Mapping[str, Any]) -> str:
    """Whose image it is, "" where nobody says; 0 is somebody."""
    patient = item.get("patient")
    return "" if patient is None else str(patient)


def _sections(asked: str | Sequence[str] | None, datalist: str | Path | None) -> tuple[str, ...]:
    """Sections of a datalist, from what somebody typed: `training`, or `training,validation`."""
    if asked is None:
        return SECTIONS
    if datalist is None:
        raise UserError("--sections chooses among those of a datalist; give --datalist, too.")
    listed = asked if isinstance(asked, (list, tuple)) else str(asked).split(",")
    names = [str(name).strip() for name in listed]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UserError(f"--sections takes {', '.join(SECTIONS)}, got {', '.join(unknown) or 'none'}.")
    return tuple(names)


class ImagesToExport(UsableImages):
    """All images of the folder, then only those that an earlier run has not finished."""

    def leave_out(self, finished: Collection[bytes], state: ExportState) -> int:
        """Drop finished and withdrawn images and copies; returns how many remain, in the order of their salted ids.

        Neighbours in a folder are often one patient's images, in the order of time; salted ids tell nothing.
        """
        with ThreadPoolExecutor() as threads:  # most of the time the disk seeks, or a hash is computed
            prints = threads.map(fingerprint, [self.dataset_dir / item["image"] for item in self.data])
            named = {state.salted_id(one, "image"): item for one, item in zip(prints, self.data, strict=True)}
        left = sorted(named.keys() - set(finished) - state.withdrawn)
        self.data = [{**named[id_], "image_id": id_.hex()} for id_ in left]
        return len(self.data)


def fingerprint(path: Path) -> str:
    """What tells one image file from another, whatever its name and folder: its size and three blocks of its bytes.

    The first holds a DICOM header with its UIDs. Reading whole files again would make resuming as slow as exporting.
    """
    try:
        path = only_file(path)
        size = path.stat().st_size
        if not path.is_file():
            return f"no file {os.fspath(path)}"
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for place in (0, (size - _BLOCK) // 2, size - _BLOCK):
                file.seek(max(0, place))
                digest.update(file.read(_BLOCK))
    except (OSError, RadiographError):  # the reader will say why, when its turn comes
        return f"no file {os.fspath(path)}"
    return digest.hexdigest()
