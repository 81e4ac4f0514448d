"""The pretrained body behind its patch embedding, as inference wants it."""

from __future__ import annotations

from pathlib import Path

from msdino_monai.backbone import load_backbone, read_backbone
from msdino_monai.errors import UserError
from msdino_monai.networks import ImageEncoder, PatchEmbedding, ViTBody
from msdino_monai.pretraining.labelled import embedding_of

_TRAIN = "python -m monai.bundle run --config_file <bundle>/configs/train.json --dataset_dir <exports> --output_dir O"


def check_weights(backbone: str | Path) -> None:
    """Say how weights are made where there are none."""
    path = Path(str(backbone)).expanduser()
    if not path.exists():
        raise UserError(f"no weights at {path}; name them (--backbone O/models), or train them: {_TRAIN}")


def encoder_of(
    backbone: str | Path,
    img_size: int | None = None,
    coordinator_key: str | None = None,
    embedder_checkpoint: str | None = None,
    fused_attention: bool = False,
) -> ImageEncoder:
    """The encoder a coordinator returned, of the sizes its description names; a fresh ViT-S/16 where no file is.

    `img_size` None is the size of the exported images.

    Only MONAI's checks of a bundle see the fresh one: a run begins with `check_weights`.
    """
    if not Path(str(backbone)).expanduser().exists():
        return ImageEncoder(PatchEmbedding(img_size or 224, margin=2), ViTBody(fused_attention=fused_attention))
    found = read_backbone(backbone, coordinator_key=coordinator_key)
    if found.description is None:
        raise UserError(f"nothing beside {found.path} says what it is; copy its .json from where it was trained.")
    embedding = embedding_of(found.description["embedder"], embedder_checkpoint, img_size)
    encoder = ImageEncoder(embedding, ViTBody(**found.description["body"], fused_attention=fused_attention))
    load_backbone(encoder, backbone, coordinator_key=coordinator_key)
    return encoder
