"""Fed-IXI of FLamby: the brain in small T1 images of three London hospitals (IXI Tiny)."""

from __future__ import annotations

import re
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, first_few, listing, read_table
from msdino_monai.finetuning.datalists.sites import Case, share_out
from msdino_monai.finetuning.datalists.split import TEST, TRAINING, check_split

CLASSES = ("brain",)  # 1 in the masks; 0 is background

LAYOUT = Layout(
    "fed_ixi",
    ("IXI???-*-*", "IXI_sample/IXI???-*-*"),
    "IXI_sample/IXI002-Guys-0828/T1/IXI002-Guys-0828_image.nii.gz, .../label/IXI002-Guys-0828_label.nii.gz, ...",
)
_COLUMNS = ("Patient ID", "Manufacturer", "Split")
_HOSPITALS = {"0": "Guys", "1": "HH", "2": "IOP"}  # how the table numbers them
_SECTIONS = {"train": TRAINING, "test": TEST}
_NAME = re.compile(r"IXI(\d{3})-([A-Za-z]+)-\d+")


def fed_ixi(
    root: str,
    metadata: str,
    output_dir: str,
    validation_share: float = 0.1,
    seed: int = 0,
    copy: bool = False,
    check: bool = True,
) -> int:
    """Fed-IXI (FLamby): brain masks in T1 images, one folder for each of Guys, HH and IOP, published test subjects.

    --metadata  FLamby's metadata_tiny.csv
    --copy      copy volumes instead of linking them
    --check     read each mask: class numbers and geometry

    --root is IXI Tiny as FLamby downloads it, or its IXI_sample folder. Writes output_dir/guys, hh and iop, each with
    its own datalist.json. Validation is split off the training subjects. Exit status 3: some subjects are missing or
    their masks unusable; they are left out and listed beside their site's datalist.
    """
    check_split(seed, validation_share=validation_share)
    base = LAYOUT.find(root)
    base = base / "IXI_sample" if any(base.glob("IXI_sample/IXI???-*-*")) else base
    cases = _cases(Path(str(metadata)).expanduser(), base)
    settings = {"validation_share": validation_share, "seed": seed}
    return share_out(LAYOUT, cases, output_dir, CLASSES, settings, validation_share, seed, copy, check)


def _cases(table: Path, base: Path) -> list[Case]:
    """Every subject of the table; one without a folder is known by its number alone."""
    folders = {match[1]: path for path in listing(base) if (match := _NAME.fullmatch(path.name))}
    rows: dict[str, tuple[str, str]] = {}
    for row in read_table(table, _COLUMNS):
        number, hospital, section = (row[column] for column in _COLUMNS)
        if not re.fullmatch(r"\d{1,3}", number) or hospital not in _HOSPITALS or section not in _SECTIONS:
            raise UserError(f"{table} has the row {number}, {hospital}, {section}; give FLamby's metadata_tiny.csv.")
        told = (_HOSPITALS[hospital], _SECTIONS[section])
        if rows.setdefault(number.zfill(3), told) != told:
            raise UserError(f"{table} has two rows for subject {number} that disagree; copy the original file again.")
    unlisted = sorted(folders.keys() - rows.keys())
    if unlisted:
        print(f"{len(unlisted)} subjects in {base} are not in the table and left out ({first_few(unlisted)}).")
    return [_case(number, *told, folders.get(number), base, table) for number, told in rows.items()]


def _case(number: str, hospital: str, section: str, folder: Path | None, base: Path, table: Path) -> Case:
    place = folder or base / f"IXI{number}-{hospital}"
    named = _NAME.fullmatch(place.name)
    if named is not None and named[2] != hospital:
        raise UserError(f"{table} has subject {number} in {hospital}, {place.name} lies in {base}; copy both again.")
    image, label = (
        place / part / f"{place.name}_{kind}.nii.gz" for part, kind in (("T1", "image"), ("label", "label"))
    )
    return Case(hospital.lower(), place.name, section, image, label)
