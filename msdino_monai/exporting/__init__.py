"""The hospital's side: radiographs become shuffled, sealed tokens."""

from msdino_monai.exporting.audit import audited_settings, check_audit, hash_settings
from msdino_monai.exporting.defences import Defences
from msdino_monai.exporting.dry_run import DryRun
from msdino_monai.exporting.folders import export_dir, notes_dir, own_folders, recipients_of, state_dir_of
from msdino_monai.exporting.handler import ExportHandler
from msdino_monai.exporting.images import ImagesToExport, list_images
from msdino_monai.exporting.views import AugmentedViewsd, LoadPatientd, describe_transform, views_as_batch

__all__ = [
    "AugmentedViewsd",
    "Defences",
    "DryRun",
    "ExportHandler",
    "ImagesToExport",
    "LoadPatientd",
    "audited_settings",
    "check_audit",
    "describe_transform",
    "export_dir",
    "hash_settings",
    "list_images",
    "notes_dir",
    "own_folders",
    "recipients_of",
    "state_dir_of",
    "views_as_batch",
]
