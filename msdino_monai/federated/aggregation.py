"""How the sites' tensors become one: averages by sample counts, and LoRA pairs as the average of their products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from msdino_monai.errors import UserError

Tensors = Mapping[str, torch.Tensor]
_A, _B = ".lora_a", ".lora_b"


def shares(counts: Sequence[float]) -> list[float]:
    """The weight of each site: its share of all samples."""
    if not counts or any(not 0 < count < float("inf") for count in counts):
        raise UserError(f"sample counts must be positive, got {list(counts)}; leave out sites without data.")
    return [count / sum(counts) for count in counts]


def fedavg(sites: Sequence[Tensors], counts: Sequence[float]) -> dict[str, torch.Tensor]:
    """The average of every tensor, weighted by sample counts (arXiv 1602.05629)."""
    weights = shares(counts)
    return {name: _average([site[name] for site in sites], weights) for name in sites[0]}


def flap(sites: Sequence[Tensors], counts: Sequence[float], previous: Tensors | None = None) -> dict[str, torch.Tensor]:
    """LoRA pairs as the weighted sum of their products B·A, refactored to their rank; all else as `fedavg`.

    `previous` turns the new factors towards the old ones. The product stays the same, what has to be sent gets small.
    """
    weights = shares(counts)
    merged: dict[str, torch.Tensor] = {}
    for name in sites[0]:
        stem = name.removesuffix(_A)
        if name.endswith(_B) and name.removesuffix(_B) + _A in sites[0]:
            continue  # together with its partner
        if name.endswith(_A) and stem + _B in sites[0]:
            merged[name], merged[stem + _B] = refactored(
                [site[name] for site in sites],
                [site[stem + _B] for site in sites],
                weights,
                None if previous is None else previous[name],
            )
        else:
            merged[name] = _average([site[name] for site in sites], weights)
    return {name: merged[name] for name in sites[0]}


def refactored(
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    weights: Sequence[float],
    previous: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best A (r, in) with orthonormal rows and B (out, r) for the sum of weights·B·A, by the SVD of a small core.

    The sum is [w1·B1 ... wk·Bk]·[A1; ...; Ak]. With QR of both factors only a matrix of at most kr x kr is decomposed,
    and the dense (out, in) sum is never formed.
    """
    rank, inputs, outputs = a[0].shape[0], a[0].shape[1], b[0].shape[0]
    wide = torch.cat([weight * factor.double() for weight, factor in zip(weights, b, strict=True)], dim=1)
    tall = torch.cat([factor.double() for factor in a])
    left, left_core = torch.linalg.qr(wide)  # (out, m), (m, kr)
    right, right_core = torch.linalg.qr(tall.T)  # (in, n), (n, kr)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank, len(s))
    new_a = torch.zeros(rank, inputs, dtype=torch.float64)
    new_b = torch.zeros(outputs, rank, dtype=torch.float64)
    new_a[:kept] = vh[:kept] @ right.T
    new_b[:, :kept] = left @ (u[:, :kept] * s[:kept])
    if previous is not None:
        turn_u, _, turn_vh = torch.linalg.svd(previous.double() @ new_a.T)  # orthogonal Procrustes
        turn = turn_u @ turn_vh
        new_a, new_b = turn @ new_a, new_b @ turn.T
    return new_a.to(a[0].dtype), new_b.to(b[0].dtype)


def _average(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor.double()
    return total.to(tensors[0].dtype)


Strategy = Callable[[Sequence[Tensors], Sequence[float], "Tensors | None"], dict[str, torch.Tensor]]

STRATEGIES: dict[str, Strategy] = {
    "fedavg": lambda sites, counts, _: fedavg(sites, counts),
    "flap": flap,
}


def has_pairs(tensors: Tensors) -> bool:
    """Whether there are LoRA pairs among the tensors."""
    return any(name.endswith(_A) and name.removesuffix(_A) + _B in tensors for name in tensors)
