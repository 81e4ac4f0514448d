"""ChestX-ray14 of the NIH Clinical Center: 14 findings, read from reports by software."""

from __future__ import annotations

from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, first_few, read_names, read_table, relative_path
from msdino_monai.finetuning.datalists.output import Findings, output_path, publish
from msdino_monai.finetuning.datalists.split import TEST, TRAINING, VALIDATION, Item, check_split, split_items

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip

LAYOUT = Layout(
    "nih14",
    ("Data_Entry_2017*.csv", "train_val_list*.txt"),
    "Data_Entry_2017.csv (or _v2020), train_val_list.txt, test_list.txt and images_001/images/*.png, or images/*.png",
)
_IMAGE_FOLDERS = ("images_[0-9]*/images", "images_[0-9]*", "images")


def nih14(root: str, output_file: str, validation_share: float = 0.1, seed: int = 0) -> int:
    """ChestX-ray14 (NIH): 14 findings, official test list, validation split off by patient.

    --root holds Data_Entry_2017.csv, train_val_list.txt, test_list.txt and the images. Exit status 3: some images are
    missing; they are left out and listed beside the datalist. docs/datalists.md describes the layout.
    """
    check_split(seed, validation_share=validation_share)
    base = LAYOUT.find(root)
    output = output_path(output_file)
    table = LAYOUT.table(base, "Data_Entry_2017*.csv")
    train_list, test_list = LAYOUT.table(base, "train_val_list*.txt"), LAYOUT.table(base, "test_list*.txt")
    section = {**dict.fromkeys(read_names(train_list), TRAINING), **dict.fromkeys(read_names(test_list), TEST)}
    places = _images(base, root)
    items: dict[str, Item] = {}
    for row in read_table(table, ("Image Index", "Finding Labels", "Patient ID")):
        name = row["Image Index"]
        item = {
            "image": places.get(name, name),
            "label": _label(row["Finding Labels"], name),
            "patient": row["Patient ID"],
        }
        if items.setdefault(name, item) != item:
            raise UserError(f"{table} has two rows for {name} that disagree; copy the original file again.")
    listed = {part: [item for name, item in items.items() if section.get(name) == part] for part in (TRAINING, TEST)}
    if not listed[TRAINING]:
        raise UserError(f"{train_list} names no image of {table.name}; copy both from one release.")
    sections = split_items(listed[TRAINING], {VALIDATION: validation_share}, seed, "label")
    if unlisted := sorted(items.keys() - section.keys()):
        print(f"{len(unlisted)} images of {table.name} are in no official list and left out ({first_few(unlisted)}).")
    if unlabelled := sorted(section.keys() - items.keys()):
        print(f"{len(unlabelled)} images of the official lists have no row in {table.name} ({first_few(unlabelled)}).")
    settings = {"validation_share": validation_share, "seed": seed}
    findings = Findings("label", FINDINGS)
    return publish(output, LAYOUT, root, {**sections, TEST: listed[TEST]}, FINDINGS, findings, settings)


def _images(base: Path, root: str) -> dict[str, str]:
    """Where each image lies, by its name: the parts may be unpacked side by side or into one folder."""
    folders = [folder for pattern in _IMAGE_FOLDERS for folder in sorted(base.glob(pattern)) if folder.is_dir()]
    return {path.name: relative_path(path, root) for folder in reversed(folders) for path in folder.glob("*.png")}


def _label(text: str, name: str) -> list[int]:
    """Multi-hot; a row that says nothing at all is unknown, `No Finding` is all zeros."""
    if not text:
        return [-1] * len(FINDINGS)
    named = {part.strip().replace(" ", "_") for part in text.split("|")} - {"No_Finding"}
    if unknown := sorted(named - set(FINDINGS)):
        raise UserError(f"{name} has the finding {unknown[0]!r}, which ChestX-ray14 does not; copy the table again.")
    return [int(finding in named) for finding in FINDINGS]
