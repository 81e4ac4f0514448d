"""The datalist file, the list of what is missing, and the table a person reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.finetuning.datalists.layout import Layout, first_few
from msdino_monai.finetuning.datalists.split import SECTIONS, Item, check_patients_apart
from msdino_monai.finetuning.few_labels import patient_of
from msdino_monai.vault.atomic import make_folder, remove_files, write_file


@dataclass(frozen=True)
class Findings:
    """Which key of an item says what a patient has, and what its places are called."""

    key: str
    names: tuple[str, ...]


def output_path(output_file: str) -> Path:
    """Where the datalist goes; its folder is made. Only `.json`, so that no table of the data set is overwritten."""
    path = Path(str(output_file)).expanduser()
    if path.suffix.lower() != ".json" or path.is_dir():
        raise UserError(f"--output_file must be a .json file, got {str(output_file)!r}.")
    make_folder(path.parent)
    return path


def publish(
    output: Path,
    layout: Layout,
    root: str,
    sections: Mapping[str, Sequence[Item]],
    classes: Sequence[str],
    findings: Findings,
    settings: Mapping[str, object],
    missing: Mapping[str, str] | None = None,
) -> int:
    """Leave out images that are not there, write the datalist, print what is in it; returns the exit status, 0 or 3."""
    check_patients_apart(sections, layout.name)
    top = Path(str(root)).expanduser()
    found: dict[str, list[Item]] = {name: [] for name in SECTIONS}
    absent = dict(missing or {})
    for name, items in sections.items():
        for item in items:
            if (top / item["image"]).is_file():
                found[name].append(item)
            else:
                absent[item["image"]] = ""
    if not any(found.values()):
        raise layout.refusal(top, f"none of the {len(absent)} images that {layout.name} names is there")
    for items in found.values():
        items.sort(key=lambda item: str(item["image"]))
    given = "".join(f" --{name} {value}" for name, value in settings.items())
    description = f"made by: python -m msdino_monai datalist {layout.name}{given}"
    _write_missing(output.with_name(f"{output.stem}.missing.txt"), absent)
    write_file(output, encode(description, classes, found))
    print(f"{output}:")
    print(summary(found, findings))
    if absent:
        print(f"{len(absent)} missing and left out ({first_few(sorted(absent))}); all in {output.stem}.missing.txt.")
    return 3 if absent else 0


def encode(description: str, classes: Sequence[str], sections: Mapping[str, Sequence[Item]]) -> bytes:
    """The datalist as JSON, one item a line: a data set has a hundred thousand."""
    parts = [f'  "description": {json.dumps(description)}', f'  "classes": {json.dumps(list(classes))}']
    for name, items in sections.items():
        lines = ",\n".join(f"    {json.dumps(item)}" for item in items)
        parts.append(f'  "{name}": [\n{lines}\n  ]' if lines else f'  "{name}": []')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def summary(sections: Mapping[str, Sequence[Item]], findings: Findings) -> str:
    """Images, patients, and images with each finding, per section."""
    rows: list[tuple[str, ...]] = [("", *sections)]
    rows.append(("images", *(str(len(items)) for items in sections.values())))
    patients = [len({patient_of(item, place) for place, item in enumerate(items)}) for items in sections.values()]
    rows.append(("patients", *map(str, patients)))
    for index, name in enumerate(findings.names):
        rows.append((name, *(_count([item[findings.key][index] for item in items]) for items in sections.values())))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _count(labels: Sequence[int]) -> str:
    unknown = labels.count(-1) if isinstance(labels, list) else 0
    return f"{sum(label == 1 for label in labels)}" + (f" ({unknown} unknown)" if unknown else "")


def _write_missing(path: Path, absent: Mapping[str, str]) -> None:
    if absent:
        lines = [f"{name} ({absent[name]})\n" if absent[name] else f"{name}\n" for name in sorted(absent)]
        write_file(path, "".join(lines).encode(errors="surrogateescape"))
    else:
        remove_files([path])  # of an earlier run, when the download was not finished
