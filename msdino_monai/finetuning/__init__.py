"""The hospital's second side: a returned body, few labels, and a network that classifies or segments."""

from msdino_monai.finetuning.best import BestWeights
from msdino_monai.finetuning.curves import Curves
from msdino_monai.finetuning.datalist import read_datalist
from msdino_monai.finetuning.dataset import (
    ForgetsLength,
    ImageCache,
    TrainingImages,
    TrainingQuarantine,
    ValidationImages,
)
from msdino_monai.finetuning.description import load_network, read_description, save_network
from msdino_monai.finetuning.encoder import build_encoder, encoder_sizes
from msdino_monai.finetuning.few_labels import few_labels
from msdino_monai.finetuning.intervals import bootstrap_intervals
from msdino_monai.finetuning.model_card import ModelCard, ModelCheckpointLoader
from msdino_monai.finetuning.optimisation import AveragedWeights, ClipGradients, adamw, layer_groups, warmup_cosine
from msdino_monai.finetuning.progress import Progress
from msdino_monai.finetuning.resume import EpochSeed, Resume
from msdino_monai.finetuning.sampler import EpochSampler
from msdino_monai.finetuning.workplace import begin, text_or_none
from msdino_monai.workplace import loss_of, own_folder, shows_curves

__all__ = [
    "AveragedWeights",
    "BestWeights",
    "ClipGradients",
    "Curves",
    "EpochSampler",
    "EpochSeed",
    "ForgetsLength",
    "ImageCache",
    "ModelCard",
    "ModelCheckpointLoader",
    "Progress",
    "Resume",
    "TrainingImages",
    "TrainingQuarantine",
    "ValidationImages",
    "adamw",
    "begin",
    "bootstrap_intervals",
    "build_encoder",
    "encoder_sizes",
    "few_labels",
    "layer_groups",
    "load_network",
    "loss_of",
    "own_folder",
    "read_datalist",
    "read_description",
    "save_network",
    "shows_curves",
    "text_or_none",
    "warmup_cosine",
]
