"""Which volumes a run is about: those of a datalist, or all that lie in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from msdino_monai.errors import RadiographError, UserError
from msdino_monai.finetuning.datalist import load_datalist
from msdino_monai.finetuning.datalists.layout import first_few
from msdino_monai.finetuning.datalists.split import SECTIONS, check_patients_apart
from msdino_monai.finetuning.few_labels import named_patient
from msdino_monai.images.files import DICOM, existing_folder, find_images, kind_of

Item = dict[str, Any]


def volume_sections(
    datalist: str | None, dataset_dir: str | Path | None, label_key: str, sections: Sequence[str]
) -> dict[str, list[Item]]:
    """Sections of a datalist whose images are volumes, a file or the folder of a DICOM series, and labels their masks.

    Paths become absolute; every item has a `patient`, empty where the datalist names none. Nobody may be in two
    sections, those that were not asked for included.
    """
    if dataset_dir is None or not str(dataset_dir).strip():
        raise UserError("missing --dataset_dir.")
    root = existing_folder(dataset_dir).absolute()
    path = root / "datalist.json" if datalist is None else Path(datalist).expanduser()
    content = load_datalist(path)
    absent = [name for name in sections if not content.get(name)]
    if absent:
        raise UserError(f"datalist {path} has no {' and no '.join(absent)} entries; add some, or split it anew.")
    wrong = [name for name in sections if not isinstance(content[name], list)]
    if wrong:
        raise UserError(f'datalist {path}, {wrong[0]}: not a list; write [{{"image": ..., "{label_key}": ...}}, ...].')
    found = {name: [_item(entry, name, label_key, path) for entry in content[name]] for name in sections}
    check_patients_apart(content, f"datalist {path}")
    names = [item[key] for items in found.values() for item in items for key in ("image", "label")]
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} volumes and masks of datalist {path} are not in dataset_dir {root} "
            f"({first_few(missing)}); mend dataset_dir, or make the datalist anew."
        )
    return {
        name: [{**item, "image": str(root / item["image"]), "label": str(root / item["label"])} for item in items]
        for name, items in found.items()
    }


def find_volumes(
    dataset_dir: str | Path, datalist: str | None = None, leave_out: Iterable[str | Path] = ()
) -> list[Item]:
    """The volumes of a datalist (all its sections), or all below `dataset_dir`: each file, and each folder of DICOM."""
    root = existing_folder(dataset_dir)
    if datalist is not None:
        path = Path(datalist).expanduser()
        content = load_datalist(path)
        items = [_item(entry, name, None, path) for name in SECTIONS for entry in content.get(name) or []]
        if not items:
            raise UserError(f"datalist {path} names no volumes; it needs training, validation or test entries.")
        return items
    volumes: dict[str, None] = {}
    for name in find_images(root, leave_out):
        volumes[PurePosixPath(name).parent.as_posix() if _is_dicom(root / name) else name] = None
    return [{"image": name, "patient": ""} for name in sorted(volumes)]


def _is_dicom(path: Path) -> bool:
    try:
        return kind_of(path) == DICOM
    except RadiographError:  # the reader will say why, when its turn comes
        return False


def _item(entry: Any, section: str, label_key: str | None, datalist: Path) -> Item:
    """Image, patient and, where a `label_key` is asked for, the mask."""
    if not isinstance(entry, Mapping) or not _is_path(entry.get("image")):
        raise UserError(f'datalist {datalist}, {section}: {entry!r:.80} names no image; write {{"image": "a/path"}}.')
    if label_key is not None and not _is_path(entry.get(label_key)):
        keys = ", ".join(str(key) for key in entry if key not in ("image", "patient"))
        raise UserError(
            f"datalist {datalist}, {section} ({entry['image']}): {label_key} is no mask's path, there is "
            f"{keys or 'nothing else'}; mend label_key."
        )
    paths = {"image": entry["image"], **({} if label_key is None else {"label": entry[label_key]})}
    for name in paths.values():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"datalist {datalist} reaches outside dataset_dir ({name}); write paths relative to it.")
    return {**paths, "patient": named_patient(entry)}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
