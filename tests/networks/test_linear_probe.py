from __future__ import annotations

import torch
import torch.nn.functional as F

from msdino_monai.networks.linear_probe import fit_linear


def separable(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    features = torch.randn(120, 6) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0, 1.0]) + 5
    labels = ((features - features.mean(0)) / features.std(0))[:, :classes] > 0
    return features, labels.float()


def test_separable_labels_are_found_whatever_the_features_scale() -> None:
    features, labels = separable()
    weight, bias = fit_linear(features, labels, decay=1e-3)
    assert weight.shape == (3, 6)
    assert ((F.linear(features, weight, bias) > 0) == labels.bool()).float().mean() > 0.97


def test_fit_is_the_minimum() -> None:
    features, labels = separable()
    standardised = ((features - features.mean(0)) / features.std(0, correction=0)).double()

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        logits = F.linear(standardised, weight, bias)
        losses = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="none")
        return losses.mean(0).sum() + 0.05 * weight.square().sum()

    weight, bias = fit_linear(standardised, labels)
    weight = weight.double().requires_grad_()
    bias = bias.double().requires_grad_()
    gradients = torch.autograd.grad(objective(weight, bias), [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-3


def test_unknown_labels_have_no_say() -> None:
    features, labels = separable()
    hidden = labels.clone()
    hidden[60:, 0] = -1
    only_known = fit_linear(features[:60], labels[:60, :1], decay=0.1)[0]
    with_hidden = fit_linear(features, hidden, decay=0.1)[0][:1]
    assert F.cosine_similarity(only_known * features.std(0), with_hidden * features.std(0)).item() > 0.9
    flipped = hidden.clone()
    flipped[60:, 0] = -7
    torch.testing.assert_close(fit_linear(features, flipped)[0], fit_linear(features, hidden)[0])


def test_exclusive_classes_compete() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 4) + 4 * F.one_hot(labels, 4)
    weight, bias = fit_linear(features, labels, num_classes=5)
    assert weight.shape == (5, 4)
    assert (F.linear(features, weight, bias).argmax(1) == labels).float().mean() > 0.95


def test_unknown_exclusive_labels_have_no_say() -> None:
    torch.manual_seed(0)
    labels = 1 + torch.arange(60) % 2
    features = torch.randn(60, 4) + 4 * F.one_hot(labels, 4)
    more = torch.cat([labels, torch.full((120,), -1)])
    weight, bias = fit_linear(torch.cat([features, torch.randn(120, 4)]), more, num_classes=3)
    assert F.linear(features, weight, bias).softmax(1)[:, 0].max() < 0.2


def test_one_image_gives_finite_weights() -> None:
    weight, bias = fit_linear(torch.randn(1, 4), torch.ones(1, 2))
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()
