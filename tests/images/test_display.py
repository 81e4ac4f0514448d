from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from msdino_monai.images.display import fit
from msdino_monai.images.radiograph import Window


@pytest.mark.parametrize("window", [None, Window(3000.0, 1001.0), Window(3000.0, 500.0, smooth=True)])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i2", "u1", "f4", "f8"])
@pytest.mark.parametrize("shape", [(96, 80), (97, 211), (64, 64), (40, 40)])
def test_fit_is_torchs_resize_of_the_windowed_picture(
    shape: tuple[int, int], dtype: str, window: Window | None
) -> None:
    stored = np.random.default_rng(0).integers(0, 256 if dtype == "u1" else 6000, shape).astype(dtype)
    shown = torch.from_numpy(window(stored) if window else stored.astype(np.float32))[None, None]
    fitted = fit(stored, (64, 64), window=window)
    enlarge = {"mode": "bilinear", "align_corners": False}
    expected = F.interpolate(shown, size=fitted.shape, **({"mode": "area"} if min(shape) >= 64 else enlarge))[0, 0]
    torch.testing.assert_close(fitted, expected, atol=1e-6 * float(shown.abs().max()), rtol=1e-6)


def test_window_leaves_what_it_is_given() -> None:
    stored = np.arange(10, dtype=np.float32)
    assert Window(4.0, 2.0)(stored).tolist() == [3, 3, 3, 3, 4, 5, 5, 5, 5, 5]
    assert stored.tolist() == list(range(10))
