"""Predicted masks as files, and the table that links each to the image it was made from."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from msdino_monai.distributed import barrier, gather_objects, rank
from msdino_monai.errors import RadiographError, UserError
from msdino_monai.finetuning.report import write_csv
from msdino_monai.finetuning.segmentation.dicom_seg import Producer, encode_segmentation, require_highdicom
from msdino_monai.finetuning.segmentation.mask import Mask, write_nifti, write_png
from msdino_monai.finetuning.segmentation.task import Task
from msdino_monai.finetuning.workplace import file_names
from msdino_monai.images.files import DICOM, NIFTI, kind_of
from msdino_monai.images.in_memory import IN_MEMORY
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.vault.atomic import make_folder, write_file

_log = logging.getLogger(__name__)
FORMATS = ("auto", "png", "nifti", "dicom_seg")
_SUFFIXES = re.compile(r"\.(dcm|dicom|png|jpg|jpeg|nii\.gz|nii)$", re.IGNORECASE)


class SaveMaskd(SaveImaged):
    """Writes a mask of the image's own size, under the image's path and name.

    A `SaveImaged`, so that MONAI Label, which saves by itself, leaves it out. The mask's meta then knows `saved_to` and
    `pixels`, how many of each class there are. The mask of an image without a file is left to the program.

    Args:
        keys: the mask, decided, (1, H, W) or (classes, H, W).
        output_dir: where to.
        dataset_dir: what the images' paths are relative to.
        task: whose classes the mask has.
        quarantine: where an image is noted whose mask cannot be written.
        output_format: auto (NIfTI for NIfTI, else PNG), png, nifti or dicom_seg.
        model_sha256: of the weights, for DICOM.
        image_key: the image, for the path in its meta.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        dataset_dir: str | Path | None,
        task: Task,
        quarantine: Quarantine,
        output_format: str = "auto",
        model_sha256: str = "",
        image_key: str = "image",
    ) -> None:
        super().__init__(keys, output_dir=output_dir, output_ext=".png", output_dtype=np.uint8, print_log=False)
        if output_format not in FORMATS:
            raise UserError(f"--output_format must be one of {', '.join(FORMATS)}, got {output_format!r}.")
        require_highdicom(output_format)
        self.output_dir = Path(output_dir).expanduser()
        self.dataset_dir = None if dataset_dir is None else Path(dataset_dir).expanduser().absolute()
        if self.dataset_dir is not None and self.output_dir.resolve() == self.dataset_dir.resolve():
            raise UserError("output_dir is dataset_dir, where masks could overwrite yours; name another --output_dir.")
        self.task, self.quarantine, self.output_format = task, quarantine, output_format
        self.producer, self.image_key = Producer(weights=model_sha256), image_key
        self._short: dict[Path, Counter[str]] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        saved = dict(data)
        if saved[self.image_key].meta.get(IN_MEMORY):
            return saved
        for key in self.key_iterator(saved):
            path = Path(str(saved[self.image_key].meta["filename_or_obj"]))
            decided = saved[key]
            layers = self.task.layers(decided.as_tensor()).cpu().numpy()
            counts = dict(zip(self.task.classes, (int(layer.sum()) for layer in layers), strict=True))
            masks = decided.as_tensor().cpu().numpy().astype(np.uint8)
            try:
                written = self._write(path, masks, layers)
            except RadiographError as error:
                self.quarantine.reject(self._relative(path), error)
                written = []
            decided.meta["saved_to"], decided.meta["pixels"] = ", ".join(written), counts
        return saved

    def _write(self, image: Path, masks: Mask, layers: np.ndarray[Any, Any]) -> list[str]:
        kind = kind_of(image)
        wanted = self.output_format if self.output_format != "auto" else "nifti" if kind == NIFTI else "png"
        name = self.name_of(image)
        if wanted == "dicom_seg":
            if kind != DICOM:
                raise RadiographError("write", "a DICOM SEG needs a DICOM image", "use `output_format` auto or nifti")
            return [self._put(f"{name}.dcm", encode_segmentation(image, layers, self.task.classes, self.producer))]
        encode: Callable[[Mask], bytes] = write_png
        if wanted == "nifti":
            encode = lambda mask: write_nifti(mask, image)  # noqa: E731
        suffix = "png" if wanted == "png" else "nii.gz"
        if len(masks) == 1:
            return [self._put(f"{name}.{suffix}", encode(masks[0]))]
        each = zip(file_names(self.task.classes), masks, strict=True)  # layers overlap: one file for each class
        return [self._put(f"{name}_{label}.{suffix}", encode(mask)) for label, mask in each]

    def _put(self, name: str, data: bytes) -> str:
        path = self.output_dir / name
        make_folder(path.parent)
        write_file(path, data)
        return PurePosixPath(name).as_posix()

    def name_of(self, image: Path) -> str:
        """The mask's path without its suffix: `a/1.dcm` gives `a/1_mask`, beside `a/1.png` it gives `a/1.dcm_mask`."""
        folder = image.absolute().parent
        if folder not in self._short:
            names = (path.name for path in folder.iterdir())
            self._short[folder] = Counter(without_suffix(name).casefold() for name in names)
        short = without_suffix(image.name)
        unique = self._short[folder][short.casefold()] <= 1  # some file systems know no capitals
        return PurePosixPath(self._relative(image)).with_name(f"{short if unique else image.name}_mask").as_posix()

    def _relative(self, image: Path) -> str:
        image = image.absolute()
        inside = self.dataset_dir is not None and image.is_relative_to(self.dataset_dir)
        return image.relative_to(self.dataset_dir).as_posix() if inside and self.dataset_dir else image.name


def without_suffix(name: str) -> str:
    """Only known suffixes are cut: many DICOM files are called by a UID, whose last part is no suffix."""
    return _SUFFIXES.sub("", name) or name


class Predictions:
    """Writes `predictions.csv` at the end of a run: image, mask, pixels of every class, and which model made it.

    Args:
        output_dir: where to.
        classes: their names.
        quarantine: emptied when a run begins.
        about: what every row says of the model.
    """

    def __init__(
        self, output_dir: str | Path, classes: Sequence[str], quarantine: Quarantine, about: Mapping[str, str]
    ) -> None:
        self.path = Path(output_dir).expanduser() / "predictions.csv"
        self.classes, self.quarantine, self.about = tuple(classes), quarantine, dict(about)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def begin(self, _: Engine) -> None:
        self.rows = []
        if rank() == 0:
            self.quarantine.clear()
        barrier()

    def add(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            meta = output["pred"].meta
            pixels = {f"{name}_pixels": meta["pixels"][name] for name in self.classes}
            self.rows.append({"file": item["file"], "mask": meta["saved_to"], **pixels, **self.about})

    def write(self, _: Engine) -> None:
        rows = sorted(gather_objects(self.rows), key=lambda row: str(row["file"]))
        if rank() > 0:
            return
        if not rows:
            raise UserError(f"no image could be used; {self.quarantine.quarantined} says why.")
        write_csv(self.path, rows)
        _log.info("%d images: %s", len(rows), self.path)
