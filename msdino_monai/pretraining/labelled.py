"""Labelled radiographs as token sets, to see what a body's features are worth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from msdino_monai.errors import UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiographd
from msdino_monai.networks import PatchEmbedding


class LabelledTokens(NamedTuple):
    """tokens: (R, N, D) in float16. labels: (R, C), 1, 0, or below 0 where nobody knows."""

    tokens: torch.Tensor
    labels: torch.Tensor


def embedding_of(
    description: Mapping[str, Any], checkpoint: str | Path | None = None, img_size: int | None = None
) -> PatchEmbedding:
    """The embedder that a manifest or a model's JSON describes, drawn again and compared by its hash.

    With `img_size`, for images of that size; the weights are the same.
    """
    if "seed" not in description and checkpoint is None:
        raise UserError("the exports' embedder comes from a ViT checkpoint; give it as --embedder_checkpoint.")

    def draw(size: int) -> PatchEmbedding:
        return PatchEmbedding(
            img_size=size,
            patch_size=int(description["patch_size"]),
            embedding_dim=int(description["embedding_dim"]),
            margin=int(description["margin"]),
            seed=int(description.get("seed", 0)),
            position_scale=float(description["position_scale"]),
            checkpoint=None if "seed" in description else checkpoint,
        )

    exported = draw(math.isqrt(int(description["num_tokens"])) * int(description["patch_size"]))
    ours = exported.describe()["sha256"]
    if ours != description["sha256"]:
        raise UserError(
            f"the embedder drawn here has hash {ours}, the exports' {description['sha256']}; "
            "use the version of this package the exports were made with."
        )
    return exported if img_size in (None, exported.img_size) else draw(int(img_size))


def read_labelled(
    datalist: str | Path, dataset_dir: str | Path, embedding: PatchEmbedding, quarantine: Quarantine
) -> dict[str, LabelledTokens]:
    """The labelled sections of a MONAI datalist (training, validation, test) as token sets."""
    sections = labelled_sections(Path(datalist))
    load = LoadRadiographd("image", img_size=embedding.img_size)
    read: dict[str, LabelledTokens] = {}
    for name, items in sections.items():
        samples = list(UsableImages(items, load, dataset_dir, quarantine))
        if not samples:
            raise UserError(f"no image of the {name} section of {datalist} can be used: {quarantine.summary()}")
        with torch.inference_mode():
            tokens = torch.cat([embedding(sample["image"].as_tensor()[None]).half() for sample in samples])
        read[name] = LabelledTokens(tokens, torch.tensor([sample["label"] for sample in samples]).float())
    return read


def read_sections(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The sections of a MONAI datalist that are not empty."""
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8-sig"))
        sections = {name: list(content[name]) for name in ("training", "validation", "test") if content.get(name)}
        paths = [PurePosixPath(item["image"]) for items in sections.values() for item in items]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"datalist {path} cannot be read ({error!r}); see MONAI's datalist format.") from error
    if not sections:
        raise UserError(f"datalist {path} names no images; it needs training, validation or test entries.")
    if any(entry.is_absolute() or ".." in entry.parts for entry in paths):
        raise UserError(f"datalist {path} reaches outside dataset_dir; write paths relative to it.")
    return sections


def labelled_sections(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The sections of a datalist whose labels are lists over the same classes: one to learn from, one to judge by."""
    sections = read_sections(path)
    try:
        labels = [item["label"] for items in sections.values() for item in items]
        widths = {len(label) for label in labels}
        if not all(isinstance(value, int | float) for label in labels for value in label):
            raise TypeError("a label is no number")
    except (KeyError, TypeError) as error:
        raise UserError(f"datalist {path}: every image needs a label, a list of 1, 0 or -1 by class.") from error
    if len(widths) != 1:
        raise UserError(f"datalist {path} has labels of lengths {sorted(widths)}; give every image the same classes.")
    if "training" not in sections or len(sections) < 2:
        raise UserError(f"datalist {path} needs a training section to learn from and a validation or test section.")
    return sections
