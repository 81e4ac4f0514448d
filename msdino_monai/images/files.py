"""Finding images in a folder, and knowing a file by its content rather than by its name."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from msdino_monai.errors import RadiographError, UserError

_log = logging.getLogger("msdino_monai.images")

DICOM, RASTER, NIFTI = "DICOM", "raster", "NIfTI"

# Beside images, never images; anything else that looks odd is reported rather than passed over.
_NOT_IMAGES = {
    ".csv",
    ".json",
    ".log",
    ".md",
    ".pdf",
    ".py",
    ".sha256",
    ".tsv",
    ".txt",
    ".xlsx",
    ".xml",
    ".yaml",
    ".yml",
}

# Second pictures of the patients, if a survey, a privacy audit or a classifier wrote what stands behind them.
_OURS = {
    "contact_sheet.png": "survey.json",
    "pictures": "pictures/01_0_exported.png",
    "explanations": "predictions.json",
}


def find_images(folder: str | Path, leave_out: Iterable[str | Path] = ()) -> list[str]:
    """All files below `folder` that may be images, as sorted relative paths; links are followed, loops are not.

    `leave_out` names folders of ours that somebody placed among the images; pictures of earlier runs are known by what
    lies beside them.
    """
    root = existing_folder(folder)
    seen = {Path(path).expanduser().resolve() for path in leave_out}
    found, ours = [], []
    for directory, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        place = Path(directory).resolve()
        if place in seen:
            subfolders[:] = []
            continue
        seen.add(place)
        written = {name for name in _OURS.keys() & {*subfolders, *names} if (place / _OURS[name]).exists()}
        ours += [str(Path(directory, name)) for name in written]
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in written]
        for name in set(names) - written:
            if not name.startswith((".", "DICOMDIR")) and Path(name).suffix.lower() not in _NOT_IMAGES:
                found.append(Path(directory, name).relative_to(root).as_posix())
    if ours:
        _log.warning("Left out pictures that this package wrote: %s.", ", ".join(sorted(ours)))
    if not found:
        raise UserError(
            f"no images in {str(folder)!r}; give the folder that holds the DICOM, PNG, JPEG or NIfTI files."
        )
    return sorted(found)


def existing_folder(folder: str | Path) -> Path:
    """The folder, if it is one."""
    root = Path(str(folder)).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset_dir {str(folder)!r} is not a folder; give the folder that holds the images.")
    return root


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot look into {error.filename}: {error.strerror}; mend its permissions or move it away.")


def kind_of(path: str | Path) -> str:
    """DICOM, RASTER or NIFTI, by the file's first bytes."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would wait for ever
        raise RadiographError("open", "not a regular file", "leave it out")
    try:
        with Path(path).open("rb") as file:
            head = file.read(352)
    except OSError as error:
        raise RadiographError(
            "open", error.strerror or str(error), "check that the file is there and readable"
        ) from error
    if not head:
        raise RadiographError("open", "the file is empty", "copy it again from its source")
    if head[128:132] == b"DICM":
        return DICOM
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return RASTER
    if head.startswith(b"\x1f\x8b"):
        head = _gunzip_head(path)
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0":
        return NIFTI
    raise RadiographError("open", "not DICOM, PNG, JPEG or NIfTI", "convert it, or leave it out")


def _gunzip_head(path: str | Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(352)
    except (OSError, EOFError, zlib.error) as error:
        raise RadiographError("open", f"broken gzip: {error}", "copy it again from its source") from error
