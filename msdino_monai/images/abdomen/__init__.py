"""Synthetic abdominal CT volumes of several hospitals, with kidneys and tumours labelled."""

from msdino_monai.images.abdomen.folder import CLASSES
from msdino_monai.images.abdomen.sheet import volume_sheet
from msdino_monai.images.abdomen.volumes import write_volumes

__all__ = ["CLASSES", "volume_sheet", "write_volumes"]
