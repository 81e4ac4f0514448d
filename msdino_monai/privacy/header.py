"""What a DICOM header says of an image that an attacker might want to know, and whose it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pydicom

_TAGS = {"sex": "PatientSex", "view": "ViewPosition", "machine": "ManufacturerModelName"}
_TIMES = ("StudyDate", "StudyTime")


def read_header(path: Path) -> dict[str, str]:
    """Sex, view, machine and date where they are given; nothing of a file that is no DICOM."""
    said = _read(path, (*_TAGS.values(), *_TIMES))
    found = {name: said.get(tag, "") for name, tag in _TAGS.items()}
    found["date"] = "".join(said.get(tag, "") for tag in _TIMES)
    return {name: value for name, value in found.items() if value}


def read_patient(path: Path) -> str:
    """The PatientID, or "" where there is none."""
    return _read(path, ("PatientID",)).get("PatientID", "")


def _read(path: Path, tags: Sequence[str]) -> dict[str, str]:
    if not path.is_file():  # a pipe would wait for ever
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values are the reader's to report
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
            return {tag: str(header.get(tag) or "") for tag in tags}
    except Exception:  # a broken header can raise anything; the export's reader says what is wrong with it
        return {}
