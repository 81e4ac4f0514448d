"""Noise averages out: an image's views are laid onto the first of them, and averaged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Floats = npt.NDArray[np.float32]

_COARSE_TO_FINE = (8, 4, 2, 1)  # pixels that are pooled: noise and details must not decide where to begin
_STEPS, _STEP = 60, 1e-3
_DARKEST = 1e-3  # a gamma of black has no slope


def average_views(pictures: Floats) -> Floats:
    """Pictures (V, H, W) in [0, 1] of one image, each under its own affine map and gamma, as one like the first."""
    first = torch.from_numpy(np.ascontiguousarray(pictures[0], dtype=np.float32))[None, None]
    total, count = first.clone(), torch.ones_like(first)
    for picture in pictures[1:]:
        moved, known = _laid_onto(first, torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))[None, None])
        total, count = total + moved * known, count + known
    return np.asarray((total / count)[0, 0].numpy(), dtype=np.float32)


def _laid_onto(first: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The other picture (1, 1, H, W) where the first has it and as grey, and where it is known (0 or 1)."""
    change, log_gamma = torch.zeros(1, 2, 3, requires_grad=True), torch.zeros(1, requires_grad=True)
    for pooled in _COARSE_TO_FINE:
        target, source = F.avg_pool2d(first, pooled), F.avg_pool2d(other, pooled)
        optimizer = torch.optim.Adam([change, log_gamma], lr=_STEP * pooled)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            moved, known = _moved(source, change, log_gamma)
            loss = ((moved - target).square() * known).sum() / known.sum().clamp_min(1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return _moved(other, change, log_gamma)


def _moved(picture: torch.Tensor, change: torch.Tensor, log_gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grid = F.affine_grid(torch.eye(2, 3)[None] + change, list(picture.shape), align_corners=False)
    moved = F.grid_sample(picture.clamp_min(_DARKEST), grid, padding_mode="border", align_corners=False)
    inside = (grid.detach().abs() < 1).all(-1)[:, None]
    return moved.pow(log_gamma.exp()), inside.to(picture.dtype)
