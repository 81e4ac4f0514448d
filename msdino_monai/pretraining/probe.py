"""What frozen features are worth: k nearest neighbours and a linear probe on labelled images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.metrics import compute_roc_auc
from torch import nn

from msdino_monai.distributed import rank
from msdino_monai.networks.linear_probe import fit_linear
from msdino_monai.pretraining.labelled import LabelledTokens


def knn_scores(
    features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, neighbours: int = 20, temperature: float = 0.07
) -> torch.Tensor:
    """Scores (Q, C) of queries (Q, H): what the most similar labelled features (R, H) are labelled (R, C), weighted.

    A label below 0 is missing and has no say.
    """
    similarity = F.normalize(queries, dim=-1) @ F.normalize(features, dim=-1).T  # (Q, R)
    nearest, index = similarity.topk(min(neighbours, len(features)), dim=-1)
    weight = ((nearest - nearest[:, :1]) / temperature).exp()[..., None]  # (Q, K, 1)
    found = labels[index].float()  # (Q, K, C)
    known = (found >= 0).float() * weight
    return (found.clamp_min(0) * known).sum(1) / known.sum(1).clamp_min(1e-12)


def linear_scores(
    features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, decay: float = 0.1
) -> torch.Tensor:
    """Logits (Q, C) of a logistic regression on features (R, H) and labels (R, C); see `fit_linear`."""
    return F.linear(queries.float(), *fit_linear(features, labels, decay=decay))


def auc_per_class(scores: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """ROC AUC of each class (Q, C); NaN where a class has no positives or no negatives."""
    aucs = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = label >= 0
        positives = label[known].sum()
        if positives == 0 or positives == known.sum():
            aucs.append(float("nan"))
        else:
            aucs.append(float(compute_roc_auc(score[known], label[known])))
    return aucs


class Scores(NamedTuple):
    """Mean ROC AUC over the classes that have one, by nearest neighbours and by a linear probe; and per class."""

    knn_auc: float
    linear_auc: float
    knn_per_class: list[float]
    linear_per_class: list[float]


def probe(features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, wanted: torch.Tensor) -> Scores:
    """Learn from labelled features (R, H), judge on queries (Q, H)."""
    knn = auc_per_class(knn_scores(features, labels, queries), wanted)
    linear = auc_per_class(linear_scores(features, labels, queries), wanted)
    return Scores(_mean(knn), _mean(linear), knn, linear)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


@torch.inference_mode()
def class_features(body: nn.Module, tokens: torch.Tensor, batch_size: int = 128) -> torch.Tensor:
    """The class token's features (R, H) of token sets (R, N, D), in float32 on the CPU; the body's mode is kept."""
    device = next(body.parameters()).device
    was_training = body.training
    body.eval()
    features = [body(part.to(device).float())[:, 0].float().cpu() for part in torch.split(tokens, batch_size)]
    body.train(was_training)
    return torch.cat(features)


class Probe:
    """Every so many epochs, and after the last: the teacher's features on labelled images, as metrics.

    Rank 0 does it while the others wait at their next reduction. Attach it behind `Curves`.
    """

    def __init__(self, body: nn.Module, labelled: Mapping[str, LabelledTokens], every_epochs: int = 1) -> None:
        self.body, self.every_epochs = body, every_epochs
        self.known, self.asked = labelled["training"], labelled.get("validation") or labelled["test"]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for name in ("knn_auc", "linear_auc"):
            engine.state.metrics.pop(name, None)
        if rank() == 0 and (
            engine.state.epoch % self.every_epochs == 0 or engine.state.epoch == engine.state.max_epochs
        ):
            engine.state.metrics |= self.scores()

    def scores(self) -> dict[str, float]:
        known, asked = (class_features(self.body, part.tokens) for part in (self.known, self.asked))
        scores = probe(known, self.known.labels, asked, self.asked.labels)
        return {"knn_auc": scores.knn_auc, "linear_auc": scores.linear_auc}
