"""The hospital's second side: a returned body, few labels, and a network that classifies or segments."""

from msdino_monai.finetuning.datalist import read_datalist
from msdino_monai.finetuning.few_labels import few_labels

__all__ = ["few_labels", "read_datalist"]
