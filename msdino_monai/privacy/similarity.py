"""How much a recovered picture looks like the true one: PSNR, SSIM and gradient-magnitude similarity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.metrics import PSNRMetric, SSIMMetric

Floats = npt.NDArray[np.float32]

_PREWITT = torch.tensor([[1.0, 0.0, -1.0]] * 3) / 3
_STABILITY = 0.0026  # of the paper's 170 on a scale of 255 squared


@dataclass(frozen=True)
class Similarity:
    """PSNR in dB and SSIM (high is alike); GMSD (0 is alike) follows what people say of sharpness and structure."""

    psnr: float
    ssim: float
    gmsd: float


def compare_pictures(recovered: Floats, truth: Floats) -> Similarity:
    """Two pictures (H, W) in [0, 1]; PSNR of equal ones is capped at 100 dB."""
    one, two = (
        torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32))[None, None] for each in (recovered, truth)
    )
    same = bool(torch.equal(one, two))
    psnr = 100.0 if same else min(100.0, float(PSNRMetric(max_val=1.0)(one, two)))
    return Similarity(psnr, float(SSIMMetric(spatial_dims=2)(one, two)), gradient_deviation(one, two))


def gradient_deviation(one: torch.Tensor, two: torch.Tensor) -> float:
    """Gradient magnitude similarity deviation of pictures (1, 1, H, W): Xue et al., arXiv 1308.3052."""
    first, second = (_gradient(F.avg_pool2d(picture, 2)) for picture in (one, two))
    similarity = (2 * first * second + _STABILITY) / (first**2 + second**2 + _STABILITY)
    return float(similarity.std(correction=0))


def _gradient(picture: torch.Tensor) -> torch.Tensor:
    kernels = torch.stack([_PREWITT, _PREWITT.T])[:, None]
    magnitude: torch.Tensor = F.conv2d(picture, kernels, padding=1).square().sum(1, keepdim=True).sqrt()
    return magnitude
