"""A synthetic cohort: chest radiographs of several hospitals, drawn from a parametric anatomy."""

from msdino_monai.images.cohort.cohort import write_cohort
from msdino_monai.images.cohort.findings import FINDINGS
from msdino_monai.images.cohort.sheet import contact_sheet

__all__ = ["FINDINGS", "contact_sheet", "write_cohort"]
