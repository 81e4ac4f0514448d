"""Segmentation: masks in, masks out, each on the grid of its own file."""

from msdino_monai.finetuning.segmentation.evaluation import Evaluation
from msdino_monai.finetuning.segmentation.items import cases, mask_sections, names_hash
from msdino_monai.finetuning.segmentation.mask import LoadMaskd
from msdino_monai.finetuning.segmentation.metric import MeanCaseDice
from msdino_monai.finetuning.segmentation.network import (
    SegmentationLoss,
    SegmenterCard,
    build_segmenter,
    describe_segmenter,
)
from msdino_monai.finetuning.segmentation.prediction import Predictions, SaveMaskd
from msdino_monai.finetuning.segmentation.task import class_names, task_of
from msdino_monai.finetuning.segmentation.transform import ToStoredGridd, ToViewerAxesd

__all__ = [
    "Evaluation",
    "LoadMaskd",
    "MeanCaseDice",
    "Predictions",
    "SaveMaskd",
    "SegmentationLoss",
    "SegmenterCard",
    "ToStoredGridd",
    "ToViewerAxesd",
    "build_segmenter",
    "cases",
    "class_names",
    "describe_segmenter",
    "mask_sections",
    "names_hash",
    "task_of",
]
