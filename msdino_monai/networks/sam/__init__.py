"""SAM (Kirillov et al., arXiv:2304.02643) as a network that MONAI trains, federates and exports.

The modules are our own, under the names of SAM's state dict: the `segment-anything` package's do not pass through
TorchScript (its mask decoder picks layers by number), interpolate positions at every step and lay out a bias for every
score. The tests hold ours to theirs.
"""

from msdino_monai.networks.lora import base_hash
from msdino_monai.networks.sam.checkpoint import lite_medsam_checkpoint
from msdino_monai.networks.sam.segmenter import SamSegmenter

__all__ = ["SamSegmenter", "base_hash", "lite_medsam_checkpoint"]
