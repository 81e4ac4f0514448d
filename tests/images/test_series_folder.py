from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from msdino_monai.errors import RadiographError
from msdino_monai.images.transforms import LoadRadiograph


def test_folder_of_one_file_is_that_file(write_dicom: Callable[..., Path], picture: np.ndarray, tmp_path: Path) -> None:
    image = write_dicom(picture)
    (tmp_path / "study" / "series").mkdir(parents=True)
    moved = image.rename(tmp_path / "study" / "series" / "1")
    (tmp_path / "study" / "DICOMDIR").write_bytes(b"")
    loaded = LoadRadiograph(32)(tmp_path / "study")
    assert loaded.meta["filename_or_obj"] == str(moved)
    assert torch.equal(loaded.as_tensor(), LoadRadiograph(32)(moved).as_tensor())


@pytest.mark.parametrize("count", [0, 2])
def test_folder_of_another_number_of_files_is_refused(count: int, tmp_path: Path) -> None:
    for number in range(count):
        (tmp_path / f"{number}.dcm").write_bytes(b"x")
    with pytest.raises(RadiographError, match=f"a folder of {count} files"):
        LoadRadiograph(32)(tmp_path)
