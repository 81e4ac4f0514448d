"""CheXpert of Stanford: 14 observations, read from reports by software that may be uncertain."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, read_table, relative_path
from msdino_monai.finetuning.datalists.output import Findings, output_path, publish
from msdino_monai.finetuning.datalists.split import TEST, VALIDATION, Item, check_split, split_items

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip

LAYOUT = Layout(
    "chexpert", ("train.csv", "valid.csv"), "train.csv, valid.csv and train/patient*/study*/*.jpg, valid/patient*/..."
)
_UNCERTAIN = {"ignore": -1, "zeros": 0, "ones": 1}
_BLANK = {"zeros": 0, "missing": -1}


def chexpert(
    root: str,
    output_file: str,
    validation_share: float = 0.1,
    seed: int = 0,
    uncertain: str = "ignore",
    blank: str = "zeros",
    allow_lateral: bool = False,
) -> int:
    """CheXpert (Stanford): 14 observations, valid.csv becomes the test section, validation is split off by patient.

    --uncertain  what -1 becomes: ignore (label -1, masked in training), zeros or ones
    --blank      what an empty cell becomes: zeros (not mentioned is not there) or missing (label -1)

    --root holds train.csv, valid.csv, train/ and valid/. Frontal images only, unless lateral ones are allowed. Exit
    status 3: some images are missing; they are left out and listed beside the datalist.
    """
    check_split(seed, validation_share=validation_share)
    if uncertain not in _UNCERTAIN:
        raise UserError(f"--uncertain must be one of {', '.join(_UNCERTAIN)}, got {uncertain!r}.")
    if blank not in _BLANK:
        raise UserError(f"--blank must be one of {', '.join(_BLANK)}, got {blank!r}.")
    base = LAYOUT.find(root)
    output = output_path(output_file)
    codes = {1.0: 1, 0.0: 0, -1.0: _UNCERTAIN[uncertain], None: _BLANK[blank]}
    train, test = (
        _items(LAYOUT.table(base, table), relative_path(base, root), codes, allow_lateral)
        for table in ("train.csv", "valid.csv")
    )
    sections = {**split_items(train, {VALIDATION: validation_share}, seed, "label"), TEST: test}
    settings = {
        "validation_share": validation_share,
        "seed": seed,
        "uncertain": uncertain,
        "blank": blank,
        "allow_lateral": str(allow_lateral).lower(),
    }
    return publish(output, LAYOUT, root, sections, OBSERVATIONS, Findings("label", OBSERVATIONS), settings)


def _items(table: Path, base: str, codes: dict[float | None, int], allow_lateral: bool) -> list[Item]:
    items: dict[str, Item] = {}
    for row in read_table(table, ("Path", "Frontal/Lateral", *OBSERVATIONS)):
        if row["Frontal/Lateral"].lower() != "frontal" and not allow_lateral:
            continue
        # The table's paths start with the name of the release, CheXpert-v1.0 or CheXpert-v1.0-small.
        parts = PurePosixPath(row["Path"]).parts[1:]
        patients = [part for part in parts if re.fullmatch(r"patient\d+", part)]
        if not patients or ".." in parts:
            raise UserError(
                f"{table} has the path {row['Path']!r}, which names no patient; copy the original file again."
            )
        label = [_label(row[name], codes, f"{table}, {row['Path']}, {name}") for name in OBSERVATIONS]
        item: Item = {"image": PurePosixPath(base, *parts).as_posix(), "label": label, "patient": patients[0]}
        if items.setdefault(str(item["image"]), item) != item:
            raise UserError(f"{table} has two rows for {row['Path']} that disagree; copy the original file again.")
    return list(items.values())


def _label(text: str, codes: dict[float | None, int], place: str) -> int:
    try:
        return codes[float(text) if text else None]
    except (ValueError, KeyError):
        raise UserError(f"{place}: {text!r} is not 1, 0, -1 or empty; copy the original file again.") from None
