"""What models said of the test images that the tables look at, so that anyone can compute the intervals anew.

Beside the result file, one .npz for each task and share of labels. In it, for each seed and tested hospital: which
images are of one patient (numbers, no names), truth, and the values of every model.
"""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cases import Cases

from msdino_monai.vault.atomic import write_file

Key = tuple[str, float, str, str, int]  # task, share of labels, arm, who learnt, seed
Said = dict[Key, dict[str, Cases]]  # of a row: tested hospital -> cases


def key_of(row: Mapping[str, Any]) -> Key:
    return (row["task"], row["fraction"], row["arm"], row["site"], row["seed"])


def without_names(cases: Cases, site: str) -> Cases:
    """Patients as their hospital and a number, in the order of their names."""
    numbers = np.unique(cases.patients, return_inverse=True)[1]
    return replace(cases, patients=np.array([f"{site}/{number:06d}" for number in numbers]))


def folder_of(output_file: Path) -> Path:
    return output_file.with_name(f"{output_file.stem}_cases")


def write(folder: Path, said: Said) -> None:
    """Everything there is; a file appears whole or not at all."""
    files: dict[str, dict[str, npt.NDArray[Any]]] = defaultdict(dict)
    for (task, fraction, arm, site, seed), tested in said.items():
        arrays = files[f"{task}_{fraction:g}.npz"]
        for where, cases in tested.items():
            shared = {"patients": cases.patients}
            if cases.truth is not None:
                shared["truth"] = cases.truth.astype(np.float16)  # 0, 1 or NaN
            for name, values in shared.items():
                before = arrays.setdefault(f"{seed}/{where}/{name}", values)
                if not np.array_equal(before, values, equal_nan=name == "truth"):
                    raise ValueError(f"seed {seed}: models were tested on different images of {where}")
            arrays[f"{seed}/{where}/{arm}/{site}"] = cases.values.astype(np.float32)
            arrays["classes"] = np.array(cases.classes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        write_file(folder / name, packed.getvalue())


def check(rows: Iterable[Mapping[str, Any]], said: Said) -> None:
    """Every row is there, and has the scores that follow."""
    for row in rows:
        tested = said.get(key_of(row), {})
        for where, cases in tested.items():
            of_row = [row["scores"][where][name] for name in cases.classes]
            if not np.allclose(cases.scores(), np.array(of_row, float), atol=1e-6, equal_nan=True):
                raise SystemExit(f"{key_of(row)}: its scores do not follow from what its model is kept to have said.")
        if not tested:
            raise SystemExit(f"{key_of(row)}: what its model said is not kept; make the row again.")


def read(folder: Path) -> Said:
    said: Said = defaultdict(dict)
    for path in sorted(folder.glob("*.npz")):
        task, _, fraction = path.stem.rpartition("_")
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = dict(file)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise SystemExit(f"{path} is damaged ({error}); take it from the repository or a backup again.") from None
        for name, values in arrays.items():
            seed, *place = name.split("/")
            if len(place) != 3:  # classes, patients, truth
                continue
            where, arm, site = place
            truth = arrays.get(f"{seed}/{where}/truth")
            said[task, float(fraction), arm, site, int(seed)][where] = Cases(
                arrays[f"{seed}/{where}/patients"],
                tuple(map(str, arrays["classes"])),
                values.astype(np.float64),
                None if truth is None else truth.astype(np.float64),
            )
    return dict(said)
