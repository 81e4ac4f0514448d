"""Datalists of public data sets, made from their published layouts; docs/datalists.md says how to add one."""

from collections.abc import Callable

from msdino_monai.finetuning.datalists.chexpert import chexpert
from msdino_monai.finetuning.datalists.fed_ixi import fed_ixi
from msdino_monai.finetuning.datalists.fed_kits19 import fed_kits19
from msdino_monai.finetuning.datalists.montgomery import montgomery
from msdino_monai.finetuning.datalists.nih14 import nih14
from msdino_monai.finetuning.datalists.siim import siim

DATALISTS: dict[str, Callable[..., int]] = {
    "chexpert": chexpert,
    "fed_ixi": fed_ixi,
    "fed_kits19": fed_kits19,
    "montgomery": montgomery,
    "nih14": nih14,
    "siim": siim,
}

__all__ = ["DATALISTS"]
