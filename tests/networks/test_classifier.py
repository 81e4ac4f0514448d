from __future__ import annotations

import pytest
import torch

from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.classifier import Classifier


def small_classifier(num_classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    body = ViTBody(16, hidden_size=16, mlp_dim=32, num_layers=2, num_heads=2, num_registers=1, num_positions=16)
    return Classifier(ImageEncoder(PatchEmbedding(32, 8, 16), body), num_classes).eval()


def test_one_logit_for_each_class() -> None:
    assert small_classifier(5)(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_head_reads_class_token_and_mean_of_patches() -> None:
    network = small_classifier()
    features = torch.randn(2, 17, 16)
    expected = torch.cat([features[:, 0], features[:, 1:].mean(1)], 1) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network.classify(features), expected)


def test_scripted_classifier_gives_the_same_logits() -> None:
    network, image = small_classifier(), torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize(("num_classes", "dropout_rate"), [(0, 0.0), (2, 1.0), (2, -0.1)])
def test_nonsense_is_refused(num_classes: int, dropout_rate: float) -> None:
    encoder = small_classifier().encoder
    with pytest.raises(ValueError, match="must be"):
        Classifier(encoder, num_classes, dropout_rate)
