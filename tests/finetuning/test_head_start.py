from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from msdino_monai.finetuning.classification import HeadStart
from msdino_monai.finetuning.resume import Resume
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.networks.classifier import Classifier


class Pictures(Dataset[dict[str, Any]]):
    """Dark and bright ones; the label says which."""

    def __init__(self, exclusive: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        bright = torch.arange(24) % 2
        self.images = 0.3 * torch.rand(24, 1, 32, 32, generator=generator) + 0.6 * bright[:, None, None, None]
        self.labels = bright if exclusive else torch.stack([bright, 1 - bright], dim=1).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


def classifier() -> Classifier:
    torch.manual_seed(0)
    body = ViTBody(256, hidden_size=16, mlp_dim=32, num_layers=1, num_heads=2, drop_path_rate=0.5)
    return Classifier(ImageEncoder(PatchEmbedding(32, 16, 256), body), 2)


@pytest.mark.parametrize("exclusive", [False, True])
def test_head_starts_where_the_features_are_told_apart(exclusive: bool, tmp_path: Path) -> None:
    network, pictures = classifier().train(), Pictures(exclusive)
    HeadStart(network, pictures, batch_size=7).run(Resume(tmp_path, {}, {}))
    assert network.training
    logits = network.eval()(pictures.images)
    told = logits.argmax(1) == pictures.labels if exclusive else ((logits > 0) == pictures.labels.bool()).all(1)
    assert told.all()


def test_only_the_head_moves(tmp_path: Path) -> None:
    network, before = classifier(), classifier().state_dict()
    HeadStart(network, Pictures()).run(Resume(tmp_path, {}, {}))
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved == ["head.weight", "head.bias"]


def test_a_training_that_has_begun_or_does_not_want_it_keeps_its_head(tmp_path: Path) -> None:
    (tmp_path / "epoch_00001.pt").touch()
    for wanted, folder in ((True, tmp_path), (False, tmp_path / "empty")):
        network = classifier()
        HeadStart(network, Pictures(), wanted=wanted).run(Resume(folder, {}, {}))
        assert torch.equal(network.head.weight, classifier().head.weight)
