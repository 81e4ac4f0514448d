"""The Montgomery County chest X-ray set: lungs outlined by hand, and whether tuberculosis was seen."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from msdino_monai.errors import one_line
from msdino_monai.finetuning.datalists.layout import Layout, first_few, relative_path
from msdino_monai.finetuning.datalists.mask import MaskFolder
from msdino_monai.finetuning.datalists.output import Findings, output_path, publish
from msdino_monai.finetuning.datalists.split import TEST, VALIDATION, Item, check_split, split_items

CLASSES = ("right_lung", "left_lung")  # 1 and 2 in the masks; 0 is background

LAYOUT = Layout(
    "montgomery",
    ("CXR_png", "ManualMask"),
    "CXR_png/*.png, ManualMask/leftMask/*.png and ManualMask/rightMask/*.png",
)
_NAME = re.compile(r"(.+)_([01])")


def montgomery(
    root: str,
    output_file: str,
    masks_dir: str | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 0,
) -> int:
    """Montgomery County CXR: masks of both lungs in one PNG file (1 right lung, 2 left lung), split by patient.

    --masks_dir  where the masks go, inside --root; by default beside the datalist

    --root holds CXR_png/ and ManualMask/. A mask's path is `label`; `tuberculosis` is [1] or [0]. The patient's right
    lung is the one on the picture's left, whatever the mask's folder is called. Exit status 3: some images or masks
    are missing or unreadable; they are left out and listed beside the datalist.
    """
    check_split(seed, validation_share=validation_share, test_share=test_share)
    base = LAYOUT.find(root)
    output = output_path(output_file)
    images = [path for path in sorted((base / "CXR_png").glob("*.png")) if not path.name.startswith(".")]
    if not images:
        raise LAYOUT.refusal(base, f"no PNG images in {base / 'CXR_png'}")
    masks = MaskFolder(root, masks_dir, output)
    items: list[Item] = []
    missing = {relative_path(path, root): "" for path in _without_image(base, images)}
    swapped = []
    for image in tqdm(images, desc="montgomery", unit="image", disable=not sys.stderr.isatty()):
        place = relative_path(image, root)
        named = _NAME.fullmatch(image.stem)
        if named is None:
            missing[place] = "the name does not end in _0 or _1"
            continue
        try:
            left, right = _read_masks(base, image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            missing[place] = one_line(error)
            continue
        if _middle(left) < _middle(right):
            left, right = right, left
            swapped.append(image.name)
        lungs = np.where(left, 2, np.where(right, 1, 0)).astype(np.uint8)
        items.append(
            {
                "image": place,
                "label": masks.write(f"{image.stem}_lungs", lungs),
                "tuberculosis": [int(named[2])],
                "patient": named[1],
            }
        )
    if not items:
        raise LAYOUT.refusal(base, f"none of {len(missing)} images can be used, such as {first_few(missing, 1)}")
    if swapped:
        print(f"{len(swapped)} leftMask files lie on the picture's left and became right lungs ({first_few(swapped)}).")
    sections = split_items(items, {VALIDATION: validation_share, TEST: test_share}, seed, "tuberculosis")
    settings = {"validation_share": validation_share, "test_share": test_share, "seed": seed}
    findings = Findings("tuberculosis", ("tuberculosis",))
    return publish(output, LAYOUT, root, sections, CLASSES, findings, settings, missing)


def _without_image(base: Path, images: list[Path]) -> list[Path]:
    """Images that are not there, though they have a mask."""
    names = {image.name for image in images}
    masks = {path.name for path in base.glob("ManualMask/*Mask/*.png") if not path.name.startswith(".")}
    return [base / "CXR_png" / name for name in sorted(masks - names)]


def _read_masks(base: Path, image: Path) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The masks of leftMask and rightMask, on the image's grid."""
    with Image.open(image) as picture:
        shape = (picture.height, picture.width)
    masks = []
    for side in ("leftMask", "rightMask"):
        path = base / "ManualMask" / side / image.name
        if not path.is_file():
            raise ValueError(f"no {side}/{image.name}")
        with Image.open(path) as picture:
            mask = np.asarray(picture.convert("L")) > 0
        if mask.shape != shape:
            raise ValueError(f"{side} is {mask.shape[0]} x {mask.shape[1]}, the image {shape[0]} x {shape[1]} pixels")
        masks.append(mask)
    return masks[0], masks[1]


def _middle(mask: npt.NDArray[np.bool_]) -> float:
    """The column in the middle of a mask; an empty one has none and compares as neither left nor right."""
    columns = mask.sum(axis=0)
    return float(np.average(np.arange(columns.size), weights=columns)) if columns.any() else float("nan")
