"""Fed-KiTS19 of FLamby: KiTS19's kidneys and tumours, shared out over the six largest hospitals."""

from __future__ import annotations

import re
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, read_table
from msdino_monai.finetuning.datalists.sites import Case, share_out
from msdino_monai.finetuning.datalists.split import TEST, TRAINING, check_split

CLASSES = ("kidney", "tumour")  # 1 and 2 in the masks; 0 is background

LAYOUT = Layout(
    "fed_kits19",
    ("case_?????", "data/case_?????"),
    "case_00000/imaging.nii.gz and case_00000/segmentation.nii.gz, ..., or data/ that holds these",
)
_COLUMNS = ("case_ids", "site_ids", "train_test_split")
_SECTIONS = {"train": TRAINING, "test": TEST}


def fed_kits19(
    root: str,
    metadata: str,
    output_dir: str,
    validation_share: float = 0.1,
    seed: int = 0,
    copy: bool = False,
    check: bool = True,
) -> int:
    """Fed-KiTS19 (FLamby): kidney and tumour in CT, one folder a hospital, its published training and test cases.

    --metadata  FLamby's thresholded_sites.csv
    --copy      copy volumes instead of linking them
    --check     read each mask: class numbers and geometry

    --root is KiTS19's data folder (case_00000/imaging.nii.gz, segmentation.nii.gz, ...) or the one that holds it.
    Writes output_dir/site_0 to site_5, each with its own datalist.json. Validation is split off the training cases.
    Exit status 3: some cases are missing or their masks unusable; they are left out and listed beside their site's
    datalist.
    """
    check_split(seed, validation_share=validation_share)
    base = LAYOUT.find(root)
    base = base / "data" if any(base.glob("data/case_?????")) else base
    cases = _cases(Path(str(metadata)).expanduser(), base)
    settings = {"validation_share": validation_share, "seed": seed}
    return share_out(LAYOUT, cases, output_dir, CLASSES, settings, validation_share, seed, copy, check)


def _cases(table: Path, base: Path) -> list[Case]:
    cases: dict[str, Case] = {}
    for row in read_table(table, _COLUMNS):
        name, site, section = (row[column] for column in _COLUMNS)
        if not re.fullmatch(r"case_\d{5}", name) or not re.fullmatch(r"\d+", site) or section not in _SECTIONS:
            raise UserError(f"{table} has the row {name}, {site}, {section}; give FLamby's thresholded_sites.csv.")
        files = base / name / "imaging.nii.gz", base / name / "segmentation.nii.gz"
        case = Case(f"site_{site}", name, _SECTIONS[section], *files)
        if cases.setdefault(name, case) != case:
            raise UserError(f"{table} has two rows for {name} that disagree; copy the original file again.")
    return list(cases.values())
