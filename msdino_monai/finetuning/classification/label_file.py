"""Labels that lie in files beside their images, as MONAI Label keeps them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from msdino_monai.errors import UserError


class ReadLabeld(MapTransform):
    """A label file's path to its numbers; labels that are numbers already stay as they are.

    Args:
        keys: the labels.
        classes: their names, in the network's order; capitals do not count, MONAI Label drops them.
        task: `multi_label` makes a number for each class, `multi_class` one class number.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[str], task: str) -> None:
        super().__init__(keys)
        self.classes, self.task = tuple(name.casefold() for name in classes), task

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        read = dict(data)
        for key in self.key_iterator(read):
            if isinstance(read[key], str):
                read[key] = self._numbers(Path(read[key]))
        return read

    def _numbers(self, path: Path) -> list[float] | int:
        said = {name.casefold(): value for name, value in _said_in(path).items()}
        if wrong := [name for name in said if name not in self.classes]:
            raise UserError(f"label {path} names {wrong[0]!r}; the classes are {', '.join(self.classes)}.")
        numbers = [float(said.get(name, -1)) for name in self.classes]
        if any(number != -1 and not 0 <= number <= 1 for number in numbers):
            raise UserError(f"label {path} holds {numbers}; give 0 to 1 for each class, -1 where nobody knows.")
        if self.task == "multi_label":
            return numbers
        return numbers.index(max(numbers)) if max(numbers) > 0 else -1


def _said_in(path: Path) -> dict[str, Any]:
    """`{"effusion": 1}`, or what MONAI Label answers: `{"prediction": [{"label": "effusion", "score": 1}]}`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(content.get("prediction"), list):
            content = {entry["label"]: entry["score"] for entry in content["prediction"]}
        return {str(name): float(value) for name, value in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        advice = 'write {"effusion": 1, "nodule": 0}, with the names of your classes'
        raise UserError(f"label {path} cannot be read ({error}); {advice}.") from error
