"""Pictures that show a person where a mask is right and where it is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from msdino_monai.images.geometry import Geometry, to_network_grid
from msdino_monai.images.transforms import LoadRadiograph

# Okabe and Ito's colours, told apart by everybody.
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
_SIZE, _LINE = 512, 14


def draw_overlay(
    load: LoadRadiograph,
    image: str | Path,
    predicted: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    classes: tuple[str, ...],
    caption: str,
) -> bytes:
    """The upright image with the prediction (classes, H, W) as tint and the truth as outline, as PNG."""
    large = LoadRadiograph(_SIZE)
    large.rules = load.rules
    picture = large(image)
    geometry = Geometry.of(picture.meta, large.img_size)
    colours = np.repeat((picture.as_tensor()[0].numpy() * 255)[..., None], 3, axis=-1)  # (H, W) -> (H, W, 3)
    for index in range(len(classes)):
        colour = np.array(COLOURS[index % len(COLOURS)], dtype=np.float32)
        tint, line = (
            to_network_grid(torch.from_numpy(layers[index][None].astype(np.uint8)), geometry)
            for layers in (predicted, truth)
        )
        colours = np.where(tint[0].bool().numpy()[..., None], 0.7 * colours + 0.3 * colour, colours)
        colours = np.where(_outline(line)[..., None], colour, colours)
    return _captioned(colours.round().astype(np.uint8), classes, caption)


def _outline(layer: torch.Tensor) -> npt.NDArray[np.bool_]:
    """The layer's rim, two pixels wide, (1, H, W) -> (H, W)."""
    inside = -F.max_pool2d(-layer[None].float(), kernel_size=5, stride=1, padding=2)
    return np.asarray((layer.bool() & (inside[0] == 0))[0].numpy())


def _captioned(colours: npt.NDArray[np.uint8], classes: tuple[str, ...], caption: str) -> bytes:
    """A line of words above, and the classes in their colours below."""
    height, width = colours.shape[:2]
    page = Image.new("RGB", (width, height + 2 * _LINE))
    page.paste(Image.fromarray(colours), (0, _LINE))
    pen = ImageDraw.Draw(page)
    pen.text((2, 1), caption.encode("ascii", "replace").decode(), fill="white")
    place = 2.0
    for index, name in enumerate([*classes, "(tint: predicted, line: given)"]):
        words = name.encode("ascii", "replace").decode()
        colour = COLOURS[index % len(COLOURS)] if index < len(classes) else (255, 255, 255)
        pen.text((place, height + _LINE + 1), words, fill=colour)
        place += pen.textlength(words) + 8
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()
