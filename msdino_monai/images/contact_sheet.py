"""Many small pictures on one page, because people would rather look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

_CAPTION = 14


def contact_sheet(images: Sequence[torch.Tensor], captions: Sequence[str], title: str, tile: int = 160) -> Image.Image:
    """Images (H, W) in [0, 1] in a grid, each with its caption, under a title."""
    columns = max(1, math.ceil(math.sqrt(len(images) * 1.6)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("L", (columns * tile, rows * (tile + _CAPTION) + 2 * _CAPTION), 24)
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 6), title, fill=255)
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = position % columns * tile, position // columns * (tile + _CAPTION) + 2 * _CAPTION
        picture = Image.fromarray((image.numpy() * 255).round().astype(np.uint8))
        picture.thumbnail((tile - 2, tile - 2))
        sheet.paste(picture, (left + 1, top))
        draw.text((left + 3, top + tile - 1), caption[-(tile // 6) :], fill=200)
    return sheet
