"""Self-distillation without labels: DINO's loss (arXiv 2104.14294), its targets, and KoLeo's spread (1806.03198)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from msdino_monai.distributed import gather_across_ranks, sum_across_ranks
from msdino_monai.pretraining.branch import Outputs


def dino_loss(student: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of the student's logits (S, B, P) against the targets (T, B, P) of other subsets.

    The first T subsets of the student are those the targets were made from; a subset never meets itself.
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    pairs = -torch.einsum("tbp,sbp->ts", targets, log_student) / student.shape[1]  # mean over the batch
    different = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[different].mean()


def token_loss(student: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of hidden tokens' logits (R, P) against targets (R, P) of the same tokens unhidden.

    Ranks hide different numbers of tokens; the mean over ranks is the mean over all of them.
    """
    total = -(targets * F.log_softmax(student / temperature, dim=-1)).sum()
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return total * ranks / sum_across_ranks(total.new_tensor(float(len(student)))).clamp_min(1.0)


def koleo_loss(features: torch.Tensor) -> torch.Tensor:
    """Minus the mean log distance to the nearest neighbour on the sphere, over the rows (B, C) of all ranks."""
    own = F.normalize(features.float(), dim=-1)
    everybody = gather_across_ranks(own)
    with torch.no_grad():
        similarity = own @ everybody.T
        first = dist.get_rank() * len(own) if dist.is_initialized() else 0
        similarity[torch.arange(len(own)), first + torch.arange(len(own))] = -2.0  # nobody is his own neighbour
        nearest = similarity.argmax(dim=1)
    distance = (own - everybody[nearest]).square().sum(-1).add(1e-8).sqrt()
    return -distance.add(1e-8).log().mean()


class Centring(nn.Module):
    """Teacher logits (..., P) to targets: minus their running mean, sharpened."""

    centre: torch.Tensor

    def __init__(self, num_prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(num_prototypes))

    @torch.no_grad()
    def forward(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        logits = logits.float()
        targets = F.softmax((logits - self.centre) / temperature, dim=-1)
        self.centre.lerp_(mean_across_ranks(logits.flatten(0, -2)), 1 - self.momentum)
        return targets


class SinkhornKnopp(nn.Module):
    """Teacher logits (..., P) to targets that use every prototype equally over the rows of all ranks (2006.09882)."""

    def __init__(self, num_iterations: int = 3) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {num_iterations}.")
        self.num_iterations = num_iterations

    @torch.no_grad()
    def forward(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        rows = logits.double().flatten(0, -2) / temperature  # (R, P); float32 has no room for sharp teachers
        largest = rows.max() if len(rows) else rows.new_tensor(-torch.inf)
        if dist.is_initialized():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        plan = (rows - largest).exp()
        for _ in range(self.num_iterations):
            plan = plan / sum_across_ranks(plan.sum(0)).clamp_min(1e-300)
            plan = plan / plan.sum(1, keepdim=True).clamp_min(1e-300)
        return plan.float().reshape(logits.shape)


def mean_across_ranks(rows: torch.Tensor) -> torch.Tensor:
    """The mean row (C,) of all ranks' rows (R, C)."""
    return sum_across_ranks(rows.sum(0)) / sum_across_ranks(rows.new_tensor(float(len(rows)))).clamp_min(1.0)


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Over the last axis."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


class Terms(NamedTuple):
    """One iteration's loss, what it is made of, and how the teacher behaved (all scalars)."""

    loss: torch.Tensor
    dino: torch.Tensor
    koleo: torch.Tensor
    token: torch.Tensor
    teacher_entropy: torch.Tensor  # of one image's targets: ln P when the teacher says nothing
    teacher_spread: torch.Tensor  # of the targets' mean: 0 when the teacher says the same of every image
    kl: torch.Tensor  # what the student has yet to learn


class DistillationLoss(nn.Module):
    """DINO's loss with KoLeo and the token term beside it, in float32.

    Args:
        targets: `Centring` or `SinkhornKnopp`, for the class token.
        token_targets: the same for hidden tokens; they have a centre of their own.
        student_temperature: of the student's softmax.
        koleo_weight: of KoLeo on the student's class tokens.
        token_weight: of the token term.
    """

    def __init__(
        self,
        targets: nn.Module,
        token_targets: nn.Module | None = None,
        student_temperature: float = 0.1,
        koleo_weight: float = 0.0,
        token_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if student_temperature <= 0:
            raise ValueError(f"student_temperature must be positive, got {student_temperature}.")
        if koleo_weight < 0 or token_weight < 0:
            raise ValueError(f"weights must not be negative, got {koleo_weight} and {token_weight}.")
        if token_weight and token_targets is None:
            raise ValueError("token_weight needs token_targets.")
        self.targets, self.token_targets = targets, token_targets
        self.student_temperature, self.koleo_weight, self.token_weight = student_temperature, koleo_weight, token_weight

    def forward(self, student: Outputs, teacher: Outputs, teacher_temperature: float) -> Terms:
        targets = self.targets(teacher.logits, teacher_temperature)  # (T, B, P)
        dino = dino_loss(student.logits.float(), targets, self.student_temperature)
        koleo = token = dino.new_zeros(())
        if self.koleo_weight:
            koleo = torch.stack([koleo_loss(features) for features in student.features[: len(targets)]]).mean()
        if self.token_weight and student.token_logits is not None:
            token_targets = self.token_targets(teacher.token_logits, teacher_temperature)  # type: ignore[misc]
            token = token_loss(student.token_logits.float(), token_targets, self.student_temperature)
        teacher_entropy = entropy(targets).mean()
        return Terms(
            loss=dino + self.koleo_weight * koleo + self.token_weight * token,
            dino=dino,
            koleo=koleo,
            token=token,
            teacher_entropy=teacher_entropy,
            teacher_spread=entropy(mean_across_ranks(targets.flatten(0, 1))),
            kl=dino - teacher_entropy,
        )
