"""Membership inference: was this image's export used to pretrain that body?

The attacker holds candidate images and the returned body, and exports the candidates as a hospital would. A body that
has seen an image in training gives subsets of it features that agree better than those of other images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from msdino_monai.privacy.knowledge import Knowledge

Floats = npt.NDArray[np.float32]

KNOWLEDGE = Knowledge(known_images=True, pretrained_body=True)


@torch.inference_mode()
def agreement_scores(
    body: Callable[[torch.Tensor], torch.Tensor],
    tokens: Floats,
    *,
    subsets: int = 8,
    kept_share: float = 0.5,
    reference: Callable[[torch.Tensor], torch.Tensor] | None = None,
    seed: int = 0,
) -> Floats:
    """One score (B,) for each candidate's token set (B, K, D): mean cosine of features of random subsets.

    Args:
        body: tokens (B, K, D) to features (B, F).
        reference: a body that has not seen the candidates (a fresh one); what agrees there, too, is easy, not known.
    """
    if subsets < 2:
        raise ValueError(f"subsets must be at least 2 to be compared, got {subsets}.")
    sets = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))
    generator = torch.Generator().manual_seed(seed)
    kept = max(1, round(kept_share * sets.shape[1]))
    draws = [torch.randperm(sets.shape[1], generator=generator)[:kept] for _ in range(subsets)]
    agreed = _agreement(body, sets, draws)
    return (agreed if reference is None else agreed - _agreement(reference, sets, draws)).numpy()


def _agreement(
    body: Callable[[torch.Tensor], torch.Tensor], sets: torch.Tensor, draws: list[torch.Tensor]
) -> torch.Tensor:
    features = torch.stack([body(sets[:, draw]) for draw in draws], 1)  # (B, S, F)
    centred = F.normalize(features - features.mean((0, 1)), dim=-1)
    cosine = centred @ centred.mT  # (B, S, S)
    count = len(draws)
    return (cosine.sum((1, 2)) - count) / (count * (count - 1))
