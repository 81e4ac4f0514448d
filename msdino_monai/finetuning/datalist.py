"""Reading a datalist for training, and refusing what would fail or mislead later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import first_few
from msdino_monai.finetuning.datalists.split import SECTIONS, check_patients_apart
from msdino_monai.finetuning.few_labels import named_patient
from msdino_monai.images.files import existing_folder


def read_datalist(
    datalist: str | Path | None,
    dataset_dir: str | Path | None,
    label_key: str = "label",
    sections: Sequence[str] = SECTIONS,
    findings_key: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The named sections of a MONAI datalist, each item with absolute `image`, `label` and, if it has one, `patient`.

    Args:
        datalist: the file, or `None` for `datalist.json` in `dataset_dir`.
        label_key: which key of an item holds what is to be learnt. A text is a mask's path and becomes absolute;
            numbers stay as they are: 0 or 1 per class (or a share between), -1 where nobody knows.
        sections: those that are needed; each must hold something. Patients are kept apart in all that there are.
        findings_key: which key holds findings beside the label; they stay as they are, as `findings`.
    """
    if dataset_dir is None or not str(dataset_dir).strip():
        raise UserError("missing --dataset_dir.")
    root = existing_folder(dataset_dir).absolute()
    path = root / "datalist.json" if datalist is None else Path(str(datalist)).expanduser()
    content = load_datalist(path)
    absent = [name for name in sections if not content.get(name)]
    if absent:
        raise UserError(f"datalist {path} has no {' and no '.join(absent)} entries; add some, or split it anew.")
    items = {name: _section(content[name], name, label_key, path, findings_key) for name in sections}
    every = [item for part in items.values() for item in part]
    _check_labels([item["label"] for item in every], _class_count(content) if label_key == "label" else None, path)
    check_patients_apart(content, f"datalist {path}")
    for item in every:
        for key in ("image", "label"):
            if isinstance(item[key], str):
                item[key] = str(_inside(root, item[key], path))
    files = [item[key] for item in every for key in ("image", "label") if isinstance(item[key], str)]
    missing = [Path(file).relative_to(root).as_posix() for file in files if not Path(file).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} files of datalist {path} are not in dataset_dir {root} "
            f"({first_few(missing)}); mend dataset_dir, or make the datalist anew."
        )
    return items


def load_datalist(path: Path) -> dict[str, Any]:
    """A datalist's content; anything but an object is refused."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no datalist {path}; name one, or make one: python -m msdino_monai datalist.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"datalist {path} cannot be read ({error}); see MONAI's datalist format.") from error
    if not isinstance(content, dict):
        raise UserError(f'datalist {path} is no object; write {{"training": [...], "validation": [...]}}.')
    return content


def _section(
    entries: Any, name: str, label_key: str, path: Path, findings_key: str | None = None
) -> list[dict[str, Any]]:
    """The items of one section, `label_key` renamed to `label`."""
    if not isinstance(entries, list):
        raise UserError(f'datalist {path}, {name}: not a list; write [{{"image": ..., "label": ...}}, ...].')
    items = []
    for number, entry in enumerate(entries, start=1):
        where = f"datalist {path}, {name}, item {number}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str) or not entry["image"].strip():
            raise UserError(f'{where}: names no image; write {{"image": "relative/path", "label": ...}}.')
        if label_key not in entry:
            keys = ", ".join(str(key) for key in entry if key not in ("image", "patient"))
            raise UserError(
                f"{where} ({entry['image']}): no key {label_key!r} but {keys or 'nothing else'}; mend label_key."
            )
        label = entry[label_key]
        if not _is_label(label):
            raise UserError(f"{where} ({entry['image']}): {label_key} is {label!r}; give a mask's path or numbers.")
        item = {"image": entry["image"], "label": label}
        if named_patient(entry):
            item["patient"] = str(entry["patient"])
        if findings_key in entry:
            item["findings"] = entry[findings_key]
        items.append(item)
    return items


def _is_label(label: Any) -> bool:
    if isinstance(label, list):
        return bool(label) and all(_is_number(value) and (value == -1 or 0 <= value <= 1) for value in label)
    return (isinstance(label, str) and bool(label.strip())) or (_is_number(label) and label >= -1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _class_count(content: Mapping[str, Any]) -> int | None:
    """How many classes the datalist names, if it does."""
    names = content.get("classes", content.get("labels"))
    return len(names) if isinstance(names, (list, dict)) else None


def _check_labels(labels: Sequence[Any], count: int | None, path: Path) -> None:
    """All labels are of one kind, and lists of one length."""
    kinds = {f"{len(label)} numbers" if isinstance(label, list) else _kind(label) for label in labels}
    if len(kinds) > 1:
        raise UserError(f"datalist {path} mixes labels: {first_few(sorted(kinds))}; make them all of one kind.")
    if labels and isinstance(labels[0], list) and count is not None and len(labels[0]) != count:
        raise UserError(
            f"datalist {path} names {count} classes but labels have {len(labels[0])} numbers; make them agree."
        )


def _kind(label: Any) -> str:
    return "a path" if isinstance(label, str) else "one number"


def _inside(root: Path, name: str, datalist: Path) -> Path:
    """A file's absolute path; links inside the folder are the owner's choice and are followed."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"datalist {datalist} reaches outside dataset_dir ({name}); write paths relative to it.")
    return root / path
