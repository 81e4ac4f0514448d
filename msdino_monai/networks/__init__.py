"""Networks shared by the bundles."""

from msdino_monai.networks.image_encoder import ImageEncoder
from msdino_monai.networks.patch_embedding import PatchEmbedding
from msdino_monai.networks.vit import ViTBody

__all__ = ["ImageEncoder", "PatchEmbedding", "ViTBody"]
