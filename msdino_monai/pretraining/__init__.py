"""The coordinator's side: masked-sampling DINO on the hospitals' exports."""

from msdino_monai.pretraining.branch import Branch, start_teacher
from msdino_monai.pretraining.checkpoint import Checkpoints
from msdino_monai.pretraining.collapse import CollapseGuard
from msdino_monai.pretraining.crops import CropSampling, FirstRanksQuarantine, GatheredImages
from msdino_monai.pretraining.curves import Curves, CurvesFile
from msdino_monai.pretraining.encoder import check_weights, encoder_of
from msdino_monai.pretraining.features import (
    ExportedTokens,
    FeatureFile,
    FeatureInferer,
    body_for,
    classes_of,
    images_only,
    list_images,
    list_labelled,
    named,
    report_probes,
)
from msdino_monai.pretraining.head import DINOHead
from msdino_monai.pretraining.labelled import embedding_of, read_labelled
from msdino_monai.pretraining.loss import Centring, DistillationLoss, SinkhornKnopp
from msdino_monai.pretraining.optimizer import adamw, scaled_learning_rate
from msdino_monai.pretraining.probe import Probe
from msdino_monai.pretraining.result import check_result, save_result
from msdino_monai.pretraining.sampling import MaskedSampling
from msdino_monai.pretraining.schedule import FrozenPrototypes, Schedule, ScheduleHandler
from msdino_monai.pretraining.token_batches import TokenBatches
from msdino_monai.pretraining.trainer import DistillationTrainer
from msdino_monai.pretraining.workplace import (
    begin,
    check_temperatures,
    compiled,
    is_watched,
    read_probe_images,
    targets_of,
)
from msdino_monai.workplace import loss_of, own_folder, shows_curves

__all__ = [
    "Branch",
    "Centring",
    "Checkpoints",
    "CollapseGuard",
    "CropSampling",
    "Curves",
    "CurvesFile",
    "DINOHead",
    "DistillationLoss",
    "DistillationTrainer",
    "ExportedTokens",
    "FeatureFile",
    "FeatureInferer",
    "FirstRanksQuarantine",
    "FrozenPrototypes",
    "GatheredImages",
    "MaskedSampling",
    "Probe",
    "Schedule",
    "ScheduleHandler",
    "SinkhornKnopp",
    "TokenBatches",
    "adamw",
    "begin",
    "body_for",
    "check_result",
    "check_temperatures",
    "check_weights",
    "classes_of",
    "compiled",
    "embedding_of",
    "encoder_of",
    "images_only",
    "is_watched",
    "list_images",
    "list_labelled",
    "loss_of",
    "named",
    "own_folder",
    "read_labelled",
    "read_probe_images",
    "report_probes",
    "save_result",
    "scaled_learning_rate",
    "shows_curves",
    "start_teacher",
    "targets_of",
]
