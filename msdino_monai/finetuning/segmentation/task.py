"""What a segmentation's classes are, and how a mask of class numbers becomes what the network learns."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from msdino_monai.errors import UserError

# Masks whose classes are the same everywhere; what a datalist says of itself comes first.
_KNOWN_CLASSES = {"lungs": ("right_lung", "left_lung")}
_NAMED_IN = {"label": ("classes",), "lesions": ("classes", "labels")}


class Task(ABC):
    """Classes, numbered from 1 in masks; 0 is background.

    Args:
        classes: their names, the background left out.
    """

    exclusive: bool  # a pixel has one class

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Channels of the network's scores."""

    @abstractmethod
    def encode(self, mask: torch.Tensor) -> torch.Tensor:
        """Class numbers (H, W) to what the loss compares with, (1, H, W) or (classes, H, W)."""

    @abstractmethod
    def layers(self, decided: torch.Tensor) -> torch.Tensor:
        """Decided pixels (C, H, W) to one yes-or-no layer for each class, (classes, H, W)."""

    def allowed(self) -> tuple[int, ...]:
        """Values a mask may hold."""
        return tuple(range(len(self.classes) + 1))


class MultiClass(Task):
    """Every pixel has one class, or is background: softmax."""

    exclusive = True

    @property
    def out_channels(self) -> int:
        return 1 + len(self.classes)

    def encode(self, mask: torch.Tensor) -> torch.Tensor:
        return mask[None]

    def layers(self, decided: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(1, len(self.classes) + 1, device=decided.device)
        return decided == numbers[:, None, None]


class Binary(Task):
    """One class: sigmoid. Masks mark it with 1, or with 255, as painting programs do."""

    exclusive = False

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        if len(self.classes) != 1:
            raise UserError(f"--task binary has one class, got --classes {','.join(self.classes)}; name one.")

    @property
    def out_channels(self) -> int:
        return 1

    def allowed(self) -> tuple[int, ...]:
        return (0, 1, 255)

    def encode(self, mask: torch.Tensor) -> torch.Tensor:
        return (mask > 0).to(mask.dtype)[None]

    def layers(self, decided: torch.Tensor) -> torch.Tensor:
        return decided > 0


class MultiLabel(Task):
    """Classes of their own, which may overlap where they are predicted: sigmoid."""

    exclusive = False

    @property
    def out_channels(self) -> int:
        return len(self.classes)

    def encode(self, mask: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(1, len(self.classes) + 1)
        return (mask == numbers[:, None, None]).to(mask.dtype)

    def layers(self, decided: torch.Tensor) -> torch.Tensor:
        return decided > 0


TASKS: dict[str, type[Task]] = {"multi_class": MultiClass, "binary": Binary, "multi_label": MultiLabel}


def task_of(name: str, classes: Sequence[str]) -> Task:
    """`multi_class`, `binary` or `multi_label`."""
    if name not in TASKS:
        raise UserError(f"--task must be one of {', '.join(TASKS)}, got {name!r}.")
    return TASKS[name](classes)


def class_names(
    classes: Any, label_key: str, task: str, datalist: str | Path | None = None, dataset_dir: str | Path | None = None
) -> tuple[str, ...]:
    """The names given (`a,b`), or those the datalist has for this kind of mask, or those everybody has."""
    if classes:
        parts = classes.split(",") if isinstance(classes, str) else list(classes)
        names = tuple(str(part).strip() for part in parts)
        if not all(names) or len(set(names)) < len(names):
            raise UserError(f"--classes {','.join(names)} must be different names, separated by commas.")
        return names
    if task == "binary":
        return (label_key,)
    found = tuple(_named_in_datalist(label_key, datalist, dataset_dir)) or _KNOWN_CLASSES.get(label_key)
    if found is None:
        raise UserError(
            f"nothing says what the values of the masks {label_key!r} mean; give --classes a,b (names of 1, 2, ...)."
        )
    return found


def _named_in_datalist(label_key: str, datalist: str | Path | None, dataset_dir: str | Path | None) -> list[str]:
    if datalist is None and dataset_dir is None:
        return []
    path = Path(str(datalist)) if datalist is not None else Path(str(dataset_dir), "datalist.json")
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):  # whoever reads its items says what is wrong with it
        return []
    for key in _NAMED_IN.get(label_key, ()):
        names = content.get(key) if isinstance(content, dict) else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return []
