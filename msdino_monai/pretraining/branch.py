"""Student and teacher: the same body and head, one learning, one following."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from msdino_monai.networks import ViTBody


class Outputs(NamedTuple):
    """What a branch says of S subsets of B images.

    features: the class token's, (S, B, hidden_size). logits: (S, B, P).
    token_logits: of the R hidden tokens of the first group, (R, P).
    """

    features: torch.Tensor
    logits: torch.Tensor
    token_logits: torch.Tensor | None = None


class Branch(nn.Module):
    """Body and head on groups of subsets; the subsets of a group are equally long and run as one batch."""

    def __init__(self, body: ViTBody, head: nn.Module, token_head: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head, self.token_head = body, head, token_head

    def forward(self, groups: Sequence[torch.Tensor], hidden: torch.Tensor | None = None) -> Outputs:
        """Groups (S, B, K, D), and which tokens (S, B, K) of the first are hidden from the student."""
        states = [self.body(group.flatten(0, 1)).unflatten(0, group.shape[:2]) for group in groups]
        features = torch.cat([state[:, :, 0] for state in states])  # (S, B, 1 + K, H) -> (S, B, H)
        logits = self.head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        token_logits = None
        if self.token_head is not None and hidden is not None:
            token_logits = self.token_head(states[0][:, :, 1:][hidden])  # (S, B, K, H) -> (R, H) -> (R, P)
        return Outputs(features, logits, token_logits)


def start_teacher(student: Branch) -> Branch:
    """A copy of the student that does not learn by gradients and does not drop paths."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum x teacher + (1 - momentum) x student, in one call for all parameters."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
