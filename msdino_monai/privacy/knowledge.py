"""What an attacker knows and has: stated by every attack, for the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Knowledge:
    """Beyond the opened export itself: its tokens, and the embedder and options its manifest describes.

    Args:
        order: the true order of the tokens is given, to show what a single patch reveals.
        auxiliary_images: radiographs of other people, public ones for example.
        known_images: some of the exported images themselves, from another source.
        other_exports: another site's export of the same images.
        known_patients: another radiograph of the patient.
        labels: labels (site, finding, sex) of some exported images.
        all_views: all views of an image are attacked together.
        pretrained_body: the body that was trained on the export.
        embedder: the weights of the embedder; only a secret map would hide them.
    """

    order: bool = False
    auxiliary_images: bool = False
    known_images: bool = False
    other_exports: bool = False
    known_patients: bool = False
    labels: bool = False
    all_views: bool = False
    pretrained_body: bool = False
    embedder: bool = True

    def describe(self) -> dict[str, Any]:
        return asdict(self)
