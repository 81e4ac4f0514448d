"""Classification of radiographs: multi-label or multi-class, on labels some of which may be missing."""

from msdino_monai.finetuning.classification.calibration import (
    Calibration,
    CurrentCalibration,
    fit_calibration,
    read_calibration,
)
from msdino_monai.finetuning.classification.data import LabelledData, label_type
from msdino_monai.finetuning.classification.head_start import HeadStart
from msdino_monai.finetuning.classification.inference import PredictionWriter, Probabilitiesd
from msdino_monai.finetuning.classification.label_file import ReadLabeld
from msdino_monai.finetuning.classification.loss import MultiClassLoss, MultiLabelLoss, class_weights
from msdino_monai.finetuning.classification.network import (
    ClassifierCard,
    build_classifier,
    describe_classifier,
)
from msdino_monai.finetuning.classification.predictions import Cases, Predictions
from msdino_monai.finetuning.classification.workplace import evaluate, finish_training, loss_for

__all__ = [
    "Calibration",
    "Cases",
    "ClassifierCard",
    "CurrentCalibration",
    "HeadStart",
    "LabelledData",
    "MultiClassLoss",
    "MultiLabelLoss",
    "PredictionWriter",
    "Predictions",
    "Probabilitiesd",
    "ReadLabeld",
    "build_classifier",
    "class_weights",
    "describe_classifier",
    "evaluate",
    "finish_training",
    "fit_calibration",
    "label_type",
    "loss_for",
    "read_calibration",
]
