"""The radiographs an audit works with, read as the export reads them: those it exports, and those of other people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.bundle import ConfigParser
from tqdm import tqdm

from msdino_monai.errors import UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.privacy.header import read_header, read_patient

Floats = npt.NDArray[np.float32]

_LEAST = 3  # images without which nothing can be said
_FEWEST_OF_A_CLASS = 6  # below, a probe is judged by luck
_MOST_HEADERS = 2000  # read in search of patients' other images
_LEAST_AUXILIARY = 8  # images of other people without which nothing can be learnt


@dataclass(frozen=True)
class Radiograph:
    """One image (H, W) in [0, 1], its place below `dataset_dir`, and whose it is ("" where nobody says)."""

    file: str
    patient: str
    picture: Floats


@dataclass(frozen=True)
class Pool:
    """What is exported and attacked, other images of the same patients, and images of other people.

    Args:
        exported: the sample.
        relatives: not exported, but of a patient of the sample: what a second visit is found by.
        auxiliary: what the attacker learns from.
        source: where the auxiliary images come from, in words.
    """

    exported: tuple[Radiograph, ...]
    relatives: tuple[Radiograph, ...]
    auxiliary: tuple[Radiograph, ...]
    source: str


@dataclass(frozen=True)
class ExportBundle:
    """The export bundle's own configuration with the settings to audit: the audit attacks what it would write."""

    bundle_root: str | Path
    settings: Mapping[str, Any]

    def parser(self, **given: Any) -> ConfigParser:
        """The configuration, not yet run; settings of None are left as the bundle has them."""
        path = Path(str(self.bundle_root)).expanduser() / "configs" / "inference.json"
        if not path.is_file():
            raise UserError(f"{path} is not there; give --bundle_root the folder of cxr_embedding_export.")
        parser = ConfigParser()
        parser.read_config(str(path))
        ours = {"bundle_root": str(self.bundle_root), "num_workers": 0, "device": "cpu", "site_id": "audit"}
        settings = {**ours, **self.settings, **given}
        parser.update({name: value for name, value in settings.items() if value is not None})
        return parser


def read_pool(
    bundle: ExportBundle,
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    datalist: str | Path | None = None,
    auxiliary_dir: str | Path | None = None,
    exported: int = 48,
    auxiliary: int = 240,
    quarantine: Quarantine,
    seed: int = 0,
) -> Pool:
    """Draw the images by the seed; unusable files are passed over and noted in `quarantine`.

    Without `auxiliary_dir` half of the images at most are exported, and the others play the part of public ones.
    """
    own = {"output_dir": str(output_dir)}
    listed = bundle.parser(dataset_dir=str(dataset_dir), datalist=datalist, **own)
    wanted = exported if auxiliary_dir else exported + auxiliary
    found = _read(listed, wanted, quarantine, seed, "radiographs")
    if len(found) < _LEAST:
        reason, refused = next(iter(quarantine.reasons().items()), ("", 0))
        why = f" Most often ({refused} files): {reason}." if refused else ""
        raise UserError(f"{len(found)} usable images in {dataset_dir}; an audit needs at least {_LEAST}.{why}")
    count = exported if auxiliary_dir else min(exported, max(_LEAST, len(found) // 2))
    sample, rest = found[:count], found[count:]
    patients = {image.patient for image in sample} - {""}
    relatives = [image for image in rest if image.patient in patients]
    relatives += _read_relatives(listed, found, patients, exported, quarantine, seed)
    if auxiliary_dir:
        if not Path(str(auxiliary_dir)).expanduser().is_dir():
            raise UserError(f"--auxiliary_dir {auxiliary_dir} is no folder; give one with radiographs of other people.")
        elsewhere = bundle.parser(dataset_dir=str(auxiliary_dir), **own)
        given = _read(elsewhere, auxiliary, quarantine, seed, "auxiliary images")
        others = _of_others(given, sample)
        own_images = len(given) - len(others)
        source = "the images of auxiliary_dir" + (f", without {own_images} of exported patients" if own_images else "")
    else:
        others = _of_others(rest, sample)
        known = "of other patients" if all(image.patient for image in found) else "(not every image names its patient)"
        source = f"the other images of dataset_dir, {known}"
    if len(others) < _LEAST_AUXILIARY:
        where = auxiliary_dir or dataset_dir
        raise UserError(
            f"{len(others)} images of other people than the exported ones in {where}; "
            f"give at least {_LEAST_AUXILIARY} with --auxiliary_dir."
        )
    return Pool(tuple(sample), tuple(relatives), tuple(others), source)


def _of_others(images: Sequence[Radiograph], sample: Sequence[Radiograph]) -> list[Radiograph]:
    """Those that neither show a patient of the sample nor are copies: else the attacker has learnt by heart."""
    patients = {image.patient for image in sample} - {""}
    pictures = {image.picture.tobytes() for image in sample}
    return [image for image in images if image.patient not in patients and image.picture.tobytes() not in pictures]


def _read(parser: ConfigParser, count: int, quarantine: Quarantine, seed: int, name: str) -> list[Radiograph]:
    """At most `count` usable images of a configuration's data set, drawn by the seed."""
    return _read_items(parser, _drawn(parser, seed), count, quarantine, name)


def _drawn(parser: ConfigParser, seed: int) -> list[dict[str, Any]]:
    """All items, in an order drawn by the seed."""
    data = parser.get_parsed_content("dataset").data
    return [data[index] for index in np.random.default_rng(seed).permutation(len(data))]


def _read_relatives(
    parser: ConfigParser,
    read: Sequence[Radiograph],
    patients: set[str],
    count: int,
    quarantine: Quarantine,
    seed: int,
) -> list[Radiograph]:
    """Further images of these patients. Of a large folder only so many headers are looked at."""
    if not patients:
        return []
    folder = Path(parser.get_parsed_content("dataset").dataset_dir)
    known = {image.file for image in read}
    items = [item for item in _drawn(parser, seed) if str(item["image"]) not in known][:_MOST_HEADERS]
    theirs = [item for item in items if (item["patient"] or read_patient(folder / item["image"])) in patients]
    return _read_items(parser, theirs, count, quarantine, "second radiographs")


def _read_items(
    parser: ConfigParser, items: Sequence[dict[str, Any]], count: int, quarantine: Quarantine, name: str
) -> list[Radiograph]:
    dataset = parser.get_parsed_content("dataset")
    usable = UsableImages(items, parser.get_parsed_content("load"), dataset.dataset_dir, quarantine)
    bar = tqdm(
        islice(usable, count), desc=name, unit=" images", total=min(count, len(items)), disable=not sys.stderr.isatty()
    )
    return [
        Radiograph(sample["file"], sample["patient"], sample["image"].as_tensor().numpy()[0].astype(np.float32))
        for sample in bar
    ]


def read_labels(
    files: Sequence[str], datalist: str | Path | None, dataset_dir: str | Path
) -> dict[str, npt.NDArray[np.int64]]:
    """Attributes of images: a datalist's labels, what DICOM headers say (sex, view, machine), and the first folder of
    a path (a site, a department) where several.

    A class (B,) for each attribute, -1 where it is not known or too rare to be judged.
    """
    attributes: dict[str, npt.NDArray[np.int64]] = {}
    attributes["folder"] = _classes([file.split("/")[0] if "/" in file else "." for file in files])
    headers = [read_header(Path(str(dataset_dir)).expanduser() / file) for file in files]
    for name in ("sex", "view", "machine"):
        attributes[name] = _classes([header.get(name, "") for header in headers])
    if datalist is not None:
        sections = json.loads(Path(str(datalist)).expanduser().read_text(encoding="utf-8-sig"))
        items = [item for name in ("training", "validation", "test") for item in sections.get(name, [])]
        labels = {str(item["image"]): item.get("label") for item in items}
        rows = [labels.get(file) for file in files]
        attributes |= _columns(rows, sections.get("labels"))
    common = {name: _without_rare(values) for name, values in attributes.items()}
    return {name: values for name, values in common.items() if len(np.unique(values[values >= 0])) > 1}


def _classes(words: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number for each word; "" is not known."""
    numbers = {word: number for number, word in enumerate(sorted(set(words) - {""}))}
    return np.array([numbers.get(word, -1) for word in words], dtype=np.int64)


def _columns(rows: Sequence[Any], names: Any) -> dict[str, npt.NDArray[np.int64]]:
    """Whole-number labels, one or several an image, -1 for unknown; anything else (a mask's path) is no attribute."""
    wide = [row if isinstance(row, list) else [row] for row in rows]
    if not wide or len({len(row) for row in wide}) != 1 or not all(type(v) is int and v >= -1 for r in wide for v in r):
        return {}
    table = np.array(wide, dtype=np.int64)
    named = list(names) if isinstance(names, list) and len(names) == table.shape[1] else None
    return {str(named[column]) if named else f"label {column}": table[:, column] for column in range(table.shape[1])}


def _without_rare(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Classes of fewer images than a probe can be judged on become unknown."""
    found, counts = np.unique(values, return_counts=True)
    return np.where(np.isin(values, found[counts >= _FEWEST_OF_A_CLASS]), values, -1)
