"""The bundles that MONAI Label is tried with, and what each needs: data, a short training, images of every format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image

from msdino_monai.images.abdomen import write_volumes
from msdino_monai.images.cohort import write_cohort

SMALL = {"img_size": 64, "patch_size": 8, "hidden_size": 32, "mlp_dim": 64, "num_layers": 2, "num_heads": 2}
SHORT = {"batch_size": 8, "max_epochs": 3, "warmup_epochs": 1, "learning_rate": 0.002, "num_workers": 0}

# Little room for a random base to learn in, so that it soon paints more than nothing.
SAM = {
    "size": "tiny",
    "rank": 8,
    "image_size": 32,
    "intensity_range": "0,250",
    "stacks_per_volume": 16,
    "foreground": 1.0,
    "dice_weight": 1.0,
    "batch_size": 4,
    "max_epochs": 3,
    "learning_rate": 0.005,
    "num_workers": 0,
}


@dataclass(frozen=True, eq=False)
class LabelBundle:
    """One bundle in MONAI Label.

    Args:
        name: its folder's; MONAI Label knows by it what kind of model this is.
        make_data: fills a folder; returns the one below it that holds `datalist.json`.
        make_files: writes images to be inferred into a folder, one of each format, from those of the data.
        label_key: which key of the datalist holds the label.
        training: settings of the training that makes its first model.
        masks: whether it answers with a mask, and not with scores.
        settings: of its inference, that its results are written as the tests read them.
    """

    name: str
    make_data: Callable[[Path], Path]
    make_files: Callable[[Path, Path], None]
    label_key: str
    training: Mapping[str, Any] = field(default_factory=dict)
    masks: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def items(self, data: Path, section: str) -> list[tuple[Path, Any]]:
        """Images of a section, and their labels as the datalist has them; a mask's path is absolute."""
        items = json.loads((data / "datalist.json").read_text())[section]
        labels = [item[self.label_key] for item in items]
        return [
            (data / item["image"], data / label if isinstance(label, str) else label)
            for item, label in zip(items, labels, strict=True)
        ]

    def label_file(self, data: Path, label: Any) -> tuple[str, bytes]:
        """Name and content of the file that MONAI Label keeps as an image's label."""
        if isinstance(label, Path):
            return label.name, label.read_bytes()
        names = json.loads((data / "datalist.json").read_text())["labels"]
        return "label.json", json.dumps(dict(zip(names, label, strict=True))).encode()


def cohort(folder: Path) -> Path:
    """A hospital of 28 patients, about 36 radiographs."""
    write_cohort(str(folder), sites=1, patients_per_site=28, seed=7, image_size=96)
    return folder / "site_a"


def radiograph_files(data: Path, folder: Path) -> None:
    """One radiograph as DICOM, and a part of it, no square, as PNG and as NIfTI of odd spacing and origin."""
    source = sorted((data / "images").glob("*.dcm"))[0]
    (folder / "image.dcm").write_bytes(source.read_bytes())
    pixels = pydicom.dcmread(source).pixel_array[:, :80].astype(np.float64)
    grey = 255 * (pixels - pixels.min()) / np.ptp(pixels)
    Image.fromarray(grey.round().astype(np.uint8)).save(folder / "picture.png")
    affine = np.diag([-0.7, -0.9, 1.5, 1.0])
    affine[:3, 3] = 11, 22, 3
    volume = nibabel.Nifti1Image(np.ascontiguousarray(pixels.T).astype(np.int16)[..., None], affine)
    nibabel.save(volume, folder / "volume.nii.gz")


def hospital(folder: Path) -> Path:
    """Eight abdomens on a coarse grid; the last ones, of the test section, are DICOM series too."""
    write_volumes(str(folder), sites=1, patients_per_site=8, size=32, slices=8, seed=7, as_dicom=True)
    return folder / "site_a"


def volume_files(data: Path, folder: Path) -> None:
    """A DICOM series, and a part of its volume as NIfTI: oblique, slices first and upside down, no spacings equal."""
    item = json.loads((data / "datalist.json").read_text())["test"][0]
    shutil.copytree(data / item["dicom"], folder / "series")
    stored = nibabel.load(data / item["image"]).slicer[:, 2:]
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = oblique @ stored.affine @ np.diag([1.5, 1.0, 1.0, 1.0])
    place = nibabel.orientations.axcodes2ornt("ILA")
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), place)
    turned = nibabel.Nifti1Image(stored.get_fdata().astype(np.int16), affine).as_reoriented(turn)
    nibabel.save(turned, folder / "volume.nii.gz")


LABEL_BUNDLES = (
    LabelBundle(
        name="cxr_classification",
        make_data=cohort,
        make_files=radiograph_files,
        label_key="label",
        training={**SMALL, **SHORT, "bootstrap_repeats": 20},
        masks=False,
    ),
    LabelBundle(
        name="cxr_segmentation",
        make_data=cohort,
        make_files=radiograph_files,
        label_key="lungs",
        training={**SMALL, **SHORT, "feature_size": 8},
        settings={"output_format": "nifti"},
    ),
    LabelBundle(
        name="sam_federated_segmentation",
        make_data=hospital,
        make_files=volume_files,
        label_key="label",
        training=SAM,
    ),
)
