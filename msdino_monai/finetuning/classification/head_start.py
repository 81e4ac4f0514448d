"""The head begins as the best linear layer on the features there are; only then does everything learn together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from monai.data import DataLoader
from torch import nn
from torch.utils.data import Dataset

from msdino_monai.finetuning.resume import Resume
from msdino_monai.networks.classifier import Classifier
from msdino_monai.networks.linear_probe import fit_linear

_log = logging.getLogger(__name__)


class HeadStart:
    """Fits a classifier's head to its encoder's features of the training images, as they are before the first step.

    A fresh head's gradients would pull a pretrained body apart while it finds its direction (arXiv 2202.10054); with
    few labels most of what a backbone knows is lost that way.

    Args:
        network: a `Classifier`.
        images: the training images without augmentation.
        batch_size: images in a forward pass.
        decay: of the fit; see `fit_linear`.
        wanted: False leaves the head at random.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Dataset[Mapping[str, Any]],
        batch_size: int = 32,
        num_workers: int = 0,
        decay: float = 0.1,
        wanted: bool = True,
    ) -> None:
        self.network, self.images, self.batch_size, self.num_workers = network, images, batch_size, num_workers
        self.decay, self.wanted = decay, wanted

    def run(self, resume: Resume) -> None:
        """Only before a training's first epoch: a checkpoint brings its own head."""
        if not self.wanted or resume.has_begun():
            return
        classifier = self.network
        assert isinstance(classifier, Classifier)
        features, labels = self._pooled(classifier)
        weight, bias = fit_linear(features, labels, classifier.head.out_features, self.decay)
        with torch.no_grad():
            classifier.head.weight.copy_(weight)
            classifier.head.bias.copy_(bias)
        _log.info("The head starts as a linear probe of %d images.", len(features))

    @torch.no_grad()
    def _pooled(self, classifier: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head sees of every image (R, 2 * H), and the labels; every rank fits the same."""
        device, was_training = next(classifier.parameters()).device, classifier.training
        classifier.eval()
        features, labels = [], []
        for batch in DataLoader(self.images, batch_size=self.batch_size, num_workers=self.num_workers):
            features.append(classifier.pooled(classifier.encoder.features(batch["image"].to(device))))
            labels.append(torch.as_tensor(batch["label"]))
        classifier.train(was_training)
        return torch.cat(features), torch.cat(labels).to(device)
