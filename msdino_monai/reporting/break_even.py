"""What travels: one export of every image, or the trained weights there and back in every round."""

from __future__ import annotations

ITEM_BYTES = {"float16": 2, "int8": 1}


def export_bytes(images: float, views: int, tokens: int, dim: int, item_bytes: int) -> float:
    """Payload of one export; ids, scales, headers and seals add less than 1 %."""
    return images * views * tokens * dim * item_bytes


def federated_bytes(rounds: int, trained_bytes: float) -> float:
    """What one site receives and sends: the trained weights once each way in every round."""
    return 2 * rounds * trained_bytes


def break_even_images(rounds: int, trained_bytes: float, image_bytes: float, returned_bytes: float = 0) -> float:
    """Images per site below which one export, and the body that comes back, are fewer bytes than the rounds."""
    if image_bytes <= 0:
        raise ValueError(f"an image must take some bytes, got {image_bytes}.")
    return max(0.0, (federated_bytes(rounds, trained_bytes) - returned_bytes) / image_bytes)
