"""A learnt inverter: a token set, in any order, to the whole picture at once.

Every cell of the frame asks the set what lies there, knowing how chests look; what comes out is blurred where the set
does not tell, but it needs no jigsaw.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.privacy.inversion import cut_patches, join_patches
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.simulation import SimulatedExport

Floats = npt.NDArray[np.float32]


class SetInverter(nn.Module):
    """Tokens (B, K, D) to patches (B, N, p * p)."""

    knowledge = Knowledge(auxiliary_images=True)

    def __init__(self, tokens: torch.Tensor, patches: torch.Tensor, width: int = 96, layers: int = 2) -> None:
        super().__init__()
        _, cells, pixels = patches.shape
        self.register_buffer("average", patches.mean(0))  # what is learnt is how this chest differs from the others
        self.register_buffer("mean", tokens.mean((0, 1)))
        self.register_buffer("spread", tokens.std((0, 1)) + 1e-3)
        self.embed = nn.Sequential(nn.Linear(tokens.shape[-1], width), nn.GELU(), nn.Linear(width, width))
        self.cells = nn.Parameter(torch.randn(1, cells, width) * 0.1)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.ask = nn.TransformerDecoder(layer, layers)
        self.paint = nn.Linear(width, pixels)
        for zero in (self.paint.weight, self.paint.bias):
            nn.init.zeros_(zero)

    average: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        seen = self.embed((tokens - self.mean) / self.spread)
        painted: torch.Tensor = self.average + self.paint(self.ask(self.cells.expand(len(tokens), -1, -1), seen))
        return painted

    @torch.inference_mode()
    def invert(self, tokens: Floats, grid: tuple[int, int]) -> Floats:
        """The picture (H, W) of one set (K, D)."""
        painted = self(torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))[None])[0].clamp(0, 1)
        side = round(painted.shape[-1] ** 0.5)
        return join_patches(painted.reshape(-1, side, side).numpy(), np.arange(len(painted)), grid)


def train_set_inverter(
    export: SimulatedExport,
    patch_size: int,
    *,
    steps: int = 600,
    batch: int = 4,
    kept_share: float = 1.0,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> SetInverter:
    """Train on auxiliary images as the export would have made them; the same seed gives the same network."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.from_numpy(export.tokens)
    patches = torch.from_numpy(cut_patches(export.images, patch_size)).flatten(2)  # (B, N, p, p) -> (B, N, p * p)
    kept = max(1, round(kept_share * tokens.shape[1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SetInverter(tokens, patches)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
        for _ in range(steps):
            rows = torch.randint(len(tokens), (batch,), generator=generator)
            drawn = torch.randperm(tokens.shape[1], generator=generator)[:kept]
            loss = F.l1_loss(network(tokens[rows][:, drawn]), patches[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()
