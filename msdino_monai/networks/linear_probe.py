"""A linear layer fitted to frozen features: to its minimum, without a seed or a learning rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def fit_linear(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int | None = None,
    decay: float = 0.1,
    iterations: int = 100,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, H) and bias (C,) of a logistic regression on features (R, H).

    Labels (R, C) are 1, 0 or, where nobody knows, below 0; labels (R,) are one class each, of `num_classes`. `decay`
    weighs half the squared weights of standardised features against the mean cross-entropy.
    """
    features = features.detach().double()
    centre, scale = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    inputs = (features - centre) / scale
    exclusive = labels.ndim == 1
    width = labels.shape[1] if not exclusive else int(num_classes or labels.max() + 1)
    weight = torch.zeros(width, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(width, dtype=torch.float64, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")
    known, wanted = (labels >= 0).double(), labels.clamp_min(0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = F.linear(inputs, weight, bias)
        if exclusive:
            losses = F.cross_entropy(logits, wanted.long(), reduction="none")
            loss = (losses * known).sum() / known.sum().clamp_min(1)
        else:
            losses = F.binary_cross_entropy_with_logits(logits, wanted.double(), reduction="none")
            loss = ((losses * known).sum(0) / known.sum(0).clamp_min(1)).sum()
        loss = loss + decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    in_features = weight.detach() / scale  # what standardising did moves into the layer
    return in_features.float(), (bias.detach() - in_features @ centre).float()
