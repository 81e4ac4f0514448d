"""Training across hospitals that keep their images: NVIDIA FLARE around a bundle, with tensors that are counted."""

from msdino_monai.federated.site import Site

__all__ = ["Site"]
