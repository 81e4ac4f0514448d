"""Which images a run is about, and which masks belong to them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalist import read_datalist
from msdino_monai.finetuning.few_labels import few_labels
from msdino_monai.images.files import existing_folder
from msdino_monai.vault.atomic import hash_file

Item = dict[str, Any]


def mask_sections(
    datalist: str | None,
    dataset_dir: str | Path | None,
    label_key: str,
    sections: Sequence[str],
    label_fraction: float = 1.0,
    seed: int = 0,
) -> dict[str, list[Item]]:
    """Sections of a datalist whose labels are masks; every item has a `patient`, so that batches have one form.

    The share of the training patients is drawn by the findings that items have under `label`, if they do: it is then
    the one that a classifier of these findings learns from.
    """
    found = read_datalist(datalist, dataset_dir, label_key, sections, findings_key="label")
    for items in found.values():
        for item in items:
            if not isinstance(item["label"], str):
                raise UserError(f"{label_key} of {item['image']} is no mask's path; choose another --label_key.")
    if "training" in found:
        found["training"] = few_labels(found["training"], label_fraction, seed, label_key="findings")
    return {name: [_plain(item) for item in items] for name, items in found.items()}


def _plain(item: Item) -> Item:
    """What batches are made of."""
    return {"image": item["image"], "label": item["label"], "patient": item.get("patient", "")}


def cases(items: Sequence[Item], dataset_dir: str | Path) -> list[Item]:
    """Items for an evaluation: paths by which cases are called, and the files behind them."""
    root = existing_folder(dataset_dir).absolute()
    return [
        {
            "image": Path(item["image"]).relative_to(root).as_posix(),
            "image_file": item["image"],
            "mask": item["label"],
            "patient": item["patient"],
        }
        for item in items
    ]


def names_hash(sections: Mapping[str, Sequence[Item]]) -> str:
    """Equal if and only if the same images have the same masks and the same ends, wherever the folder lies."""
    paths = [str(item[key]) for each in sections.values() for item in each for key in ("image", "label")]
    root = os.path.commonpath([str(Path(path).parent) for path in paths]) if paths else ""
    named = {
        name: [[Path(item["image"]).relative_to(root).as_posix(), hash_file(Path(item["label"]))] for item in each]
        for name, each in sections.items()
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
