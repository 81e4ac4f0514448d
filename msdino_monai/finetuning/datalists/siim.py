"""SIIM-ACR Pneumothorax Segmentation: DICOM images and the outlines of free air as run lengths."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from tqdm import tqdm

from msdino_monai.errors import UserError, one_line
from msdino_monai.finetuning.datalists.layout import Layout, first_few, read_table, relative_path
from msdino_monai.finetuning.datalists.mask import MaskFolder
from msdino_monai.finetuning.datalists.output import Findings, output_path, publish
from msdino_monai.finetuning.datalists.rle import KINDS, decode_rle
from msdino_monai.finetuning.datalists.split import TEST, VALIDATION, Item, check_split, split_items

LAYOUT = Layout(
    "siim",
    ("train-rle.csv", "stage_2_train.csv", "dicom-images-train"),
    "train-rle.csv (or stage_2_train.csv) and dicom-images-train/*/*/*.dcm (or stage_2_images/*.dcm)",
)
_IMAGES = ("dicom-images-train/*/*/*.dcm", "dicom-images-train/*.dcm", "stage_2_images/*.dcm")


def siim(
    root: str,
    output_file: str,
    masks_dir: str | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 0,
    rle: str = "relative",
) -> int:
    """SIIM-ACR pneumothorax: masks drawn from run lengths as PNG files (1 pneumothorax), split by patient.

    --masks_dir  where the masks go, inside --root; by default beside the datalist
    --rle        relative (as first published: a start counts from the end of the run before) or absolute

    --root holds train-rle.csv and dicom-images-train/. A mask's path is `label`; `pneumothorax` is [1] or [0]. Exit
    status 3: some images are missing or unreadable; they are left out and listed beside the datalist.
    """
    check_split(seed, validation_share=validation_share, test_share=test_share)
    if rle not in KINDS:
        raise UserError(f"--rle must be one of {', '.join(KINDS)}, got {rle!r}.")
    base = LAYOUT.find(root)
    output = output_path(output_file)
    codes = _codes(LAYOUT.table(base, "train-rle.csv", "stage_2_train.csv"))
    places = {path.stem: path for pattern in reversed(_IMAGES) for path in sorted(base.glob(pattern))}
    if not codes.keys() & places.keys():
        raise LAYOUT.refusal(base, f"none of the {len(codes)} images of the table is in {base}")
    masks = MaskFolder(root, masks_dir, output)
    missing = {f"{name}.dcm": "" for name in codes if name not in places}
    items: list[Item] = []
    for name in tqdm(sorted(codes.keys() & places.keys()), desc="siim", unit="image", disable=not sys.stderr.isatty()):
        try:
            patient, height, width = _header(places[name])
        except Exception as error:  # a broken header can raise anything
            missing[relative_path(places[name], root)] = one_line(error)
            continue
        mask = _mask(codes[name], height, width, rle, name)
        items.append(
            {
                "image": relative_path(places[name], root),
                "label": masks.write(f"{name}_pneumothorax", mask),
                "pneumothorax": [int(mask.any())],
                "patient": patient or name,
            }
        )
    if not items:
        raise LAYOUT.refusal(base, f"none of {len(missing)} images can be used, such as {first_few(missing, 1)}")
    if unnamed := sorted(places.keys() - codes.keys()):
        print(f"{len(unnamed)} DICOM files have no row in the table and are left out ({first_few(unnamed)}).")
    sections = split_items(items, {VALIDATION: validation_share, TEST: test_share}, seed, "pneumothorax")
    settings = {"validation_share": validation_share, "test_share": test_share, "seed": seed, "rle": rle}
    findings = Findings("pneumothorax", ("pneumothorax",))
    return publish(output, LAYOUT, root, sections, ("pneumothorax",), findings, settings, missing)


def _codes(table: Path) -> dict[str, list[str]]:
    """The run-length codes of each image, one per region."""
    codes: dict[str, list[str]] = {}
    for row in read_table(table, ("ImageId", "EncodedPixels")):
        codes.setdefault(row["ImageId"].removesuffix(".dcm"), []).append(row["EncodedPixels"])
    return codes


def _header(path: Path) -> tuple[str, int, int]:
    """Who and how large, without reading the pixels."""
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "Rows", "Columns"])
    return str(header.get("PatientID") or "").strip(), int(header.Rows), int(header.Columns)


def _mask(codes: list[str], height: int, width: int, kind: str, name: str) -> npt.NDArray[np.uint8]:
    """All regions of an image together; the same region twice is one, and -1 beside a region says nothing."""
    mask = np.zeros((height, width), dtype=bool)
    for code in codes:
        try:
            mask |= decode_rle(code, height, width, kind)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return mask.astype(np.uint8)
