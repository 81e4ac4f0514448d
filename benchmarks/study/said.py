"""What every model said of test images, kept beside the result file, so that anyone can compute the intervals anew.

One .npz for each task and share of labels. In it, for each seed and tested hospital: patients, truth, and the values of
every model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cases import Cases

Key = tuple[str, float, str, str, int]  # task, share of labels, arm, who learnt, seed
Said = dict[Key, dict[str, Cases]]  # of a row: tested hospital -> cases


def key_of(row: Mapping[str, Any]) -> Key:
    return (row["task"], row["fraction"], row["arm"], row["site"], row["seed"])


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
        part = folder / f"{name}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        part.replace(folder / name)


def read(folder: Path) -> Said:
    said: Said = defaultdict(dict)
    for path in sorted(folder.glob("*.npz")):
        task, _, fraction = path.stem.rpartition("_")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
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
