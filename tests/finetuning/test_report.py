from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from msdino_monai.errors import UserError
from msdino_monai.finetuning.report import write_csv, write_json


def test_undefined_is_null_and_never_zero(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "deep" / "metrics.json", {"auc": float("nan"), "n": np.int64(3), "x": [np.float32(0.5)]}
    )
    assert json.loads(path.read_text()) == {"auc": None, "n": 3, "x": [0.5]}


def test_rows_keep_their_columns_and_undefined_stays_empty(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "cases.csv", [{"file": "a, b", "dice": float("nan")}, {"file": "c", "dice": 0.25, "n": 2}]
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows == [{"file": "a, b", "dice": "", "n": ""}, {"file": "c", "dice": "0.25", "n": "2"}]


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create"):
        write_json(tmp_path / "file" / "metrics.json", {})
