from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from msdino_monai.finetuning.encoder import build_encoder
from msdino_monai.finetuning.explanation import overlay, relevance
from msdino_monai.networks.classifier import Classifier


def with_lesions(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise (B, 1, 32, 32) with a bright and a dark spot, each there or not: labels (B, 2) and their patches (B, 2)."""
    images = 0.4 + 0.05 * torch.randn(count, 1, 32, 32, generator=generator)
    labels = torch.randint(0, 2, (count, 2), generator=generator)
    patches = torch.stack([torch.randperm(16, generator=generator)[:2] for _ in range(count)])
    for image, label, pair in zip(images, labels, patches, strict=True):
        for there, patch, change in zip(label, pair, (0.5, -0.35), strict=True):
            row, column = 8 * (int(patch) // 4), 8 * (int(patch) % 4)
            image[0, row + 2 : row + 6, column + 2 : column + 6] += change * there
    return images, labels.float(), patches


@pytest.fixture(scope="module")
def trained() -> Classifier:
    """A small network that has learnt to tell bright spots from dark ones."""
    torch.manual_seed(0)
    encoder = build_encoder(
        32, patch_size=8, hidden_size=16, mlp_dim=32, num_layers=2, num_heads=2, num_registers=1, embedding_dim=64
    )
    network = Classifier(encoder, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(2000):  # how soon it is learnt depends on the threads' rounding
        images, labels, _ = with_lesions(32, generator)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 250 and loss < 0.02:
            break
    assert loss < 0.1
    network.zero_grad()
    return network.eval()


def test_explanation_points_at_the_lesion_asked_for(trained: Classifier) -> None:
    images, labels, patches = with_lesions(128, torch.Generator().manual_seed(2))
    cases, kinds = labels.nonzero(as_tuple=True)
    heats = relevance(trained, images[cases], kinds)
    assert heats.shape == (len(cases), 4, 4)
    hits = (heats.flatten(1).argmax(1) == patches[cases, kinds]).float().mean()
    assert hits > 0.5, "chance is 1 in 16; how well the network has learnt depends on the rounding of the day"


def test_network_and_its_gradients_stay_as_they_were(trained: Classifier) -> None:
    trained.requires_grad_(False)
    images, labels, _ = with_lesions(2, torch.Generator().manual_seed(3))
    trained.train()
    with torch.no_grad():
        first = relevance(trained, images, labels.argmax(1))
    assert trained.training
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trained.modules())
    trained.requires_grad_(True).eval()
    torch.testing.assert_close(relevance(trained, images, labels.argmax(1)), first)


def test_fused_attention_is_explained_alike(trained: Classifier) -> None:
    images, labels, _ = with_lesions(4, torch.Generator().manual_seed(4))
    expected = relevance(trained, images, labels.argmax(1))
    for block in trained.encoder.body.blocks:
        block.attn.use_flash_attention = True
    fused = relevance(trained, images, labels.argmax(1))
    for block in trained.encoder.body.blocks:
        block.attn.use_flash_attention = False
    torch.testing.assert_close(fused, expected, atol=1e-4, rtol=1e-3)


def test_attention_is_what_the_block_computed(trained: Classifier) -> None:
    """The attention that is computed again, times the values, is what went into the block's last layer."""
    from msdino_monai.finetuning.explanation import _watched

    images, _, _ = with_lesions(2, torch.Generator().manual_seed(5))
    with torch.no_grad(), _watched(list(trained.encoder.body.blocks)) as notes:
        trained(images)
    for note in notes:
        query, key, value = (note.heads(part) for part in note.qkv.chunk(3, dim=-1))
        attention = (query @ key.transpose(-2, -1) * note.attention.scale).softmax(-1)
        torch.testing.assert_close(attention @ value, note.heads(note.mixed), atol=1e-5, rtol=1e-4)


def test_overlay_is_warm_where_the_heat_is_and_grey_elsewhere() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 0] = 1
    pixels = np.array(Image.open(io.BytesIO(overlay(torch.full((1, 32, 32), 0.5), heat))))
    assert pixels.shape == (32, 32, 3)
    assert pixels[2, 2, 0] > pixels[2, 2, 2] + 60
    assert len(set(pixels[28, 28].tolist())) == 1
