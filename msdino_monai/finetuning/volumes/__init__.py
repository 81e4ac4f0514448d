"""Segmentation of volumes: stacks of slices in, masks on the grid of each volume's file out."""

from msdino_monai.finetuning.volumes.evaluation import VolumeEvaluation
from msdino_monai.finetuning.volumes.inferer import StackInferer
from msdino_monai.finetuning.volumes.items import find_volumes, volume_sections
from msdino_monai.finetuning.volumes.metric import MeanVolumeDice
from msdino_monai.finetuning.volumes.network import (
    CurrentWeights,
    TrainedWeights,
    VolumeCard,
    VolumeModelLoader,
    base_checkpoint,
    load_model,
    save_segmenter,
    write_adapter,
)
from msdino_monai.finetuning.volumes.plane import FitPlaned
from msdino_monai.finetuning.volumes.prediction import SaveVolumed, ToViewerGridd, VolumePredictions
from msdino_monai.finetuning.volumes.schedule import warmup_polynomial
from msdino_monai.finetuning.volumes.stack import RandStackd, TrainingStacks
from msdino_monai.finetuning.volumes.task import VolumeClasses
from msdino_monai.finetuning.volumes.window import WindowVolumed

__all__ = [
    "CurrentWeights",
    "FitPlaned",
    "MeanVolumeDice",
    "RandStackd",
    "SaveVolumed",
    "StackInferer",
    "ToViewerGridd",
    "TrainedWeights",
    "TrainingStacks",
    "VolumeCard",
    "VolumeClasses",
    "VolumeEvaluation",
    "VolumeModelLoader",
    "VolumePredictions",
    "WindowVolumed",
    "base_checkpoint",
    "find_volumes",
    "load_model",
    "save_segmenter",
    "volume_sections",
    "warmup_polynomial",
    "write_adapter",
]
