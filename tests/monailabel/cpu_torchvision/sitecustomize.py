"""Lets a torchvision built for CUDA be imported beside a torch for CPUs; only the tests' server has this on its path.

It looks for these two operators when it is imported. Nothing here calls them.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
