"""Pictures of a few slices that show a person where a volume's mask is right and where it is not."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import
from PIL import Image, ImageDraw

from msdino_monai.finetuning.segmentation.overlay import COLOURS

ndimage, _ = optional_import("scipy.ndimage")

_TILE, _LINE, _SLICES = 320, 14, 3
Layers = npt.NDArray[np.bool_]


def draw_slices(
    volume: npt.NDArray[np.float32], predicted: Layers, truth: Layers, classes: Sequence[str], caption: str
) -> bytes:
    """Slices of (H, W, S) in [0, 1] with the prediction (classes, H, W, S) as tint and the truth as line, as PNG.

    They are those between which the classes lie: the one with most of them, and one on either side.
    """
    tiles = [_tile(volume[..., at], predicted[..., at], truth[..., at]) for at in telling_slices(truth, predicted)]
    width = max(tile.width for tile in tiles)
    page = Image.new("RGB", (len(tiles) * width, max(tile.height for tile in tiles) + 2 * _LINE))
    for place, tile in enumerate(tiles):
        page.paste(tile, (place * width, _LINE))
    pen = ImageDraw.Draw(page)
    pen.text((2, 1), caption.encode("ascii", "replace").decode(), fill="white")
    left = 2.0
    for index, name in enumerate([*classes, "(tint: predicted, line: given)"]):
        words = name.encode("ascii", "replace").decode()
        colour = COLOURS[index % len(COLOURS)] if index < len(classes) else (255, 255, 255)
        pen.text((left, page.height - _LINE + 1), words, fill=colour)
        left += pen.textlength(words) + 8
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def telling_slices(truth: Layers, predicted: Layers) -> list[int]:
    """The slice with most of the truth's voxels (or of the prediction's), and those halfway to where they end."""
    layers = truth if truth.any() else predicted
    counts = layers.sum(axis=tuple(range(layers.ndim - 1)))
    holding = np.flatnonzero(counts)
    if not len(holding):
        return [len(counts) // 2]
    most = int(counts.argmax())
    return sorted({(int(holding[0]) + most) // 2, most, (int(holding[-1]) + most + 1) // 2})[:_SLICES]


def _tile(picture: npt.NDArray[np.float32], predicted: Layers, truth: Layers) -> Image.Image:
    """One slice (H, W) with its layers (classes, H, W), enlarged to the tile's size."""
    scale = _TILE / max(picture.shape)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    grey = Image.fromarray((picture * 255).round().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    colours = np.repeat(np.asarray(grey, dtype=np.float32)[..., None], 3, axis=-1)  # (h, w) -> (h, w, 3)
    for index, (ours, theirs) in enumerate(zip(predicted, truth, strict=True)):
        colour = np.array(COLOURS[index % len(COLOURS)], dtype=np.float32)
        tint, solid = (np.asarray(Image.fromarray(layer).resize(size)) for layer in (ours, theirs))
        colours = np.where(tint[..., None], 0.7 * colours + 0.3 * colour, colours)
        colours = np.where((solid & ~ndimage.binary_erosion(solid))[..., None], colour, colours)
    return Image.fromarray(colours.round().astype(np.uint8))
