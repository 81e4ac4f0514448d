"""Labelled radiographs as a classifier needs them, and the names of what there is to find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from msdino_monai.errors import UserError
from msdino_monai.finetuning.classification.calibration import TASKS
from msdino_monai.finetuning.datalist import read_datalist
from msdino_monai.finetuning.few_labels import few_labels


class LabelledData:
    """Sections of a datalist, checked, as items with `image` (relative), `label`, `patient` and `file`.

    Args:
        datalist: the file; None for `datalist.json` in `dataset_dir`.
        dataset_dir: what the paths in it are relative to; None where a program names the images: then only the classes
            are known here.
        task: `multi_label`, a list of numbers an image; or `multi_class`, one number.
        classes: their names; None for those in the datalist.
        label_key: which key of an item holds the label.
        sections: which are needed.
        label_fraction: share of the training patients that is kept.
        seed: which of them.
    """

    def __init__(
        self,
        datalist: str | Path | None,
        dataset_dir: str | Path | None,
        task: str = "multi_label",
        classes: str | Sequence[str] | None = None,
        label_key: str = "label",
        sections: Sequence[str] = ("training", "validation"),
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        if task not in TASKS:
            raise UserError(f"--task must be {' or '.join(TASKS)}, got {task!r}.")
        self.task, self.dataset_dir = task, Path(str(dataset_dir)).expanduser().absolute()
        self._path = self.dataset_dir / "datalist.json" if datalist is None else Path(str(datalist)).expanduser()
        self._sections: dict[str, list[dict[str, Any]]] = {}
        if dataset_dir is None and classes is not None:
            self.classes = _named(classes)
            return
        found = read_datalist(datalist, dataset_dir, label_key, sections)
        labels = [item["label"] for items in found.values() for item in items]
        self._refuse_other_labels(labels)
        self.classes = _named(classes) or self._own_names() or _numbered(labels)
        self._refuse_other_classes(labels)
        if "training" in found:
            found["training"] = few_labels(found["training"], label_fraction, seed)
        self._sections = {name: [self._plain(item) for item in items] for name, items in found.items()}

    def digest(self) -> str:
        """Equal if and only if the same images have the same labels."""
        return hashlib.sha256(json.dumps(self._sections, sort_keys=True).encode()).hexdigest()

    def items(self, section: str) -> list[dict[str, Any]]:
        return [dict(item) for item in self._section(section)]

    def absolute_items(self, section: str) -> list[dict[str, Any]]:
        """With absolute paths, for data sets that know no `dataset_dir`."""
        return [{**item, "image": str(self.dataset_dir / item["image"])} for item in self._section(section)]

    def labels(self, section: str) -> torch.Tensor:
        """(n, C) for multi-label, (n,) for multi-class; n is 0 where a program names the images."""
        if not self._sections:
            return torch.zeros(
                (0, len(self.classes))[: 2 if self.task == "multi_label" else 1], dtype=label_type(self.task)
            )
        return torch.tensor([item["label"] for item in self._section(section)], dtype=label_type(self.task))

    def _section(self, name: str) -> list[dict[str, Any]]:
        if name not in self._sections:
            raise UserError("missing --dataset_dir.")
        return self._sections[name]

    def _plain(self, item: Mapping[str, Any]) -> dict[str, Any]:
        relative = Path(item["image"]).relative_to(self.dataset_dir).as_posix()
        return {"image": relative, "file": relative, "label": item["label"], "patient": item.get("patient", "")}

    def _own_names(self) -> tuple[str, ...]:
        content = json.loads(self._path.read_text(encoding="utf-8-sig"))
        names = content.get("classes", content.get("labels"))
        if isinstance(names, Mapping):
            numbers = sorted((name for name in names if str(name).isdigit()), key=int)
            return tuple(str(names[name]) for name in numbers)
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def _refuse_other_labels(self, labels: Sequence[Any]) -> None:
        wanted = "a list of numbers" if self.task == "multi_label" else "one whole number"
        for label in labels:
            whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
            if not (isinstance(label, list) if self.task == "multi_label" else whole):
                raise UserError(
                    f"datalist {self._path}: --task {self.task} needs {wanted} as label, got {label!r}; "
                    "mend --task or --label_key."
                )

    def _refuse_other_classes(self, labels: Sequence[Any]) -> None:
        count, own = len(self.classes), self._own_names()
        if own and own != self.classes:
            raise UserError(
                f"datalist {self._path} names its classes {', '.join(own)}, not {', '.join(self.classes)}; "
                "mend the datalist, or leave --classes out."
            )
        if len(set(self.classes)) != count:
            raise UserError(f"classes repeat ({', '.join(self.classes)}); give each another name.")
        for label in labels:
            if self.task == "multi_label" and len(label) != count:
                raise UserError(f"datalist {self._path}: {len(label)} numbers in a label but {count} classes.")
            if self.task == "multi_class" and label >= count:
                raise UserError(
                    f"datalist {self._path}: label {label} is outside the {count} classes (0 to {count - 1})."
                )


def label_type(task: str) -> torch.dtype:
    return torch.float32 if task == "multi_label" else torch.int64


def _named(classes: str | Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return ()
    parts = classes.split(",") if isinstance(classes, str) else classes
    return tuple(str(part).strip() for part in parts)


def _numbered(labels: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(labels[0], list):
        return tuple(f"class {place}" for place in range(len(labels[0])))
    return tuple(f"class {place}" for place in range(1 + max(0, int(max(labels)))))
