"""The contact sheet."""

from pathlib import Path

import numpy as np
from PIL import Image

from msdino_monai.images.cohort import contact_sheet


def test_a_contact_sheet_shows_every_finding_of_every_site(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", sites=2, cell=48, per_site=1)
    page = np.array(Image.open(tmp_path / "sheet.png"))
    for row in range(7):
        for column in range(2):
            tile = page[44 + 52 * row :, 138 + 52 * column :][:48, :48]
            assert tile.std() > 20
