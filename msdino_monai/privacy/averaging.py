"""Noise averages out: an image's views are laid onto the first of them, and averaged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Floats = npt.NDArray[np.float32]

_COARSE_TO_FINE = (8, 4, 2, 1)  # pixels that are pooled: noise and details must not decide where to begin
_STEPS, _STEP = 60, 1e-3
_WHOLE = 0.999
_DARKEST = 1e-3  # a gamma of black has no slope


def average_views(pictures: Floats, shown: Floats | None = None) -> list[Floats]:
    """Pictures (V, H, W) in [0, 1] of one image, each under its own affine map and gamma: 1, 2, ... V of them as one
    (H, W) like the first.

    `shown` (V, H, W) is 0 where a view has no patch and 1 elsewhere; what no view shows stays black.
    """
    stack = torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32))[:, None, None]  # (V, 1, 1, H, W)
    seen = torch.ones_like(stack) if shown is None else torch.from_numpy(shown).to(stack)[:, None, None]
    total, count = stack[0] * seen[0], seen[0].clone()
    averages = [_mean(total, count)]
    for picture, there in zip(stack[1:], seen[1:], strict=True):
        moved, known = _laid_onto(stack[0], picture, seen[0], there)
        total, count = total + moved * known, count + known
        averages.append(_mean(total, count))
    return averages


def _mean(total: torch.Tensor, count: torch.Tensor) -> Floats:
    return np.asarray((total / count.clamp_min(1))[0, 0].numpy(), dtype=np.float32)


def _laid_onto(
    first: torch.Tensor, other: torch.Tensor, first_seen: torch.Tensor, other_seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The other picture (1, 1, H, W) where the first has it and as grey, and where it is known (0 or 1)."""
    change, log_gamma = torch.zeros(1, 2, 3, requires_grad=True), torch.zeros(1, requires_grad=True)
    for pooled in _COARSE_TO_FINE:
        target, source, here, there = (F.avg_pool2d(each, pooled) for each in (first, other, first_seen, other_seen))
        optimizer = torch.optim.Adam([change, log_gamma], lr=_STEP * pooled)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            moved, known = _moved(source, there, change, log_gamma)
            known = known * (here > _WHOLE)
            loss = ((moved - target).square() * known).sum() / known.sum().clamp_min(1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return _moved(other, other_seen, change, log_gamma)


def _moved(
    picture: torch.Tensor, seen: torch.Tensor, change: torch.Tensor, log_gamma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    grid = F.affine_grid(torch.eye(2, 3)[None] + change, list(picture.shape), align_corners=False)
    moved = F.grid_sample(picture.clamp_min(_DARKEST), grid, padding_mode="border", align_corners=False)
    there = F.grid_sample(seen, grid.detach(), padding_mode="zeros", align_corners=False) > _WHOLE
    return moved.pow(log_gamma.exp()), there.to(picture.dtype)
