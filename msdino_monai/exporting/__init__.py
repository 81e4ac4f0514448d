"""The hospital's side: radiographs become shuffled, sealed tokens."""

from msdino_monai.exporting.defences import Defences
from msdino_monai.exporting.dry_run import DryRun
from msdino_monai.exporting.handler import ExportHandler
from msdino_monai.exporting.images import ImagesToExport, list_images, state_dir_of
from msdino_monai.exporting.views import AugmentedViewsd, LoadPatientd, describe_transform, views_as_batch

__all__ = [
    "AugmentedViewsd",
    "Defences",
    "DryRun",
    "ExportHandler",
    "ImagesToExport",
    "LoadPatientd",
    "describe_transform",
    "list_images",
    "state_dir_of",
    "views_as_batch",
]
