"""`python -m msdino_monai survey`: look at a folder of radiographs before anything else is done with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import BinaryIO

import torch
from monai.data import DataLoader
from monai.data.utils import no_collation
from tqdm import tqdm

from msdino_monai.images.contact_sheet import contact_sheet
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.files import find_images
from msdino_monai.images.memory import keep_memory
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiographd
from msdino_monai.numbers import check_whole_numbers


def survey(
    dataset_dir: str,
    output_dir: str,
    img_size: int = 224,
    num_workers: int = 0,
    pictures: int = 60,
    allow_lateral: bool = False,
    allow_burned_in_annotation: bool = False,
    allow_first_frame: bool = False,
    allow_for_processing: bool = False,
) -> int:
    """Read every radiograph in a folder as the networks would, and say what is usable, what is not, and why.

    Writes survey.json (counts), quarantine.csv (files that cannot be used: step, reason, what to do), flagged.csv
    (used, but worth a look) and contact_sheet.png (what the networks see). All of it names files: it is written for you
    alone, keep it inside the hospital. Exit status 0: all usable; 3: some are quarantined; 1: failed.
    """
    check_whole_numbers(1, img_size=img_size)
    check_whole_numbers(0, num_workers=num_workers, pictures=pictures)
    output = Path(output_dir)
    images = find_images(dataset_dir, leave_out=[output])
    _make_private(output)
    quarantine = Quarantine(output)
    quarantine.clear()
    load = LoadRadiographd(
        keys="image",
        img_size=img_size,
        allow_lateral=allow_lateral,
        allow_burned_in_annotation=allow_burned_in_annotation,
        allow_first_frame=allow_first_frame,
        allow_for_processing=allow_for_processing,
    )
    usable = UsableImages([{"image": image} for image in images], load, dataset_dir, quarantine)
    shown: list[torch.Tensor] = []
    names: list[str] = []
    count = 0
    loader = DataLoader(
        usable, batch_size=None, num_workers=num_workers, collate_fn=no_collation, worker_init_fn=keep_memory
    )
    for sample in tqdm(loader, desc="survey", unit=" images", disable=not sys.stderr.isatty()):
        count += 1
        if len(shown) < pictures:
            shown.append(sample["image"].as_tensor()[0])  # (1, H, W) -> (H, W)
            names.append(sample["file"])
    report = {
        "files": len(images),
        "usable": count,
        "quarantined": len(images) - count,
        "flagged": len(quarantine.suspicious()),
        "reasons": quarantine.reasons(),
    }
    with _private_file(output / "survey.json") as file:
        file.write(json.dumps(report, indent=2).encode() + b"\n")
    if shown:
        sheet = contact_sheet(shown, names, f"{count} usable of {len(images)} files, as the networks see them")
        with _private_file(output / "contact_sheet.png") as file:
            sheet.save(file, "PNG")
    print(f"{count} of {len(images)} files are usable; {quarantine.summary() or 'none quarantined'}.")
    return 3 if count < len(images) else 0


def _make_private(folder: Path) -> None:
    """A folder only its owner may enter (0700); one that holds something stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        folder.chmod(0o700)


def _private_file(path: Path) -> BinaryIO:
    """A new file (0600) in the place of an old one."""
    path.unlink(missing_ok=True)
    path.touch(0o600, exist_ok=False)
    return path.open("wb")
