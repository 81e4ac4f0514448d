"""Section: sample radiographs, what becomes of their patches, and what an attacker makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msdino_monai.errors import RadiographError
from msdino_monai.reporting.page import Page
from msdino_monai.reporting.picture import Picture
from msdino_monai.reporting.runs import Runs

Pixels = npt.NDArray[np.float32]
_SIZE, _GAP = 256, 2


def add(page: Page, runs: Runs) -> None:
    page.section("What becomes of a radiograph")
    page.paragraph(
        "A hospital cuts each radiograph into patches, drops a ring of pixels around each patch if a margin is set, "
        "embeds what is left with a public linear map and puts the patches into a random order, which it throws away. "
        "The shuffle is obfuscation, not cryptography: single patches stay readable to the coordinator."
    )
    if not runs.pictures:
        page.missing("Pictures are left out of this page.")
        return
    if not runs.synthetic:
        page.missing(
            "Radiographs are drawn here from synthetic cohorts only; none was found, or other images are there."
        )
        return
    patch, margin, found_in = _cut(runs)
    shown: list[Picture] = []
    for site, path in _samples(runs):
        image = _read(path)
        if image is None:
            continue
        shown += [
            Picture(image, f"Synthetic radiograph of {site}", f"{site}: a synthetic radiograph."),
            Picture(
                patches(image, patch, margin),
                f"The radiograph of {site} as patches",
                f"{site}: its patches{', the margin dropped' if margin else ''}.",
                crisp=True,
            ),
            Picture(
                patches(image, patch, margin, seed=len(shown)),
                f"The patches of {site} in random order",
                f"{site}: in random order.",
                crisp=True,
            ),
        ]
    if not shown:
        page.missing("No radiograph of the synthetic cohorts could be read.")
        return
    page.pictures(shown, columns=3)
    page.paragraph(
        f"Drawn for this page: patches of {patch} x {patch} pixels of a picture of {_SIZE}, margin {margin} "
        f"({found_in}), without noise or fewer dimensions. The order is an example: an export's own is thrown away."
    )


def _cut(runs: Runs) -> tuple[int, int, str]:
    """Patch size, enlarged with the picture, and margin, from what a pretrained body says of its embedder."""
    for run in runs.pretrainings:
        embedder: dict[str, Any] = run.content.get("embedder") or {}
        if {"patch_size", "margin", "num_tokens"} <= embedder.keys():
            size = int(embedder["patch_size"]) * round(int(embedder["num_tokens"]) ** 0.5)
            scale = max(1, _SIZE // size)
            return int(embedder["patch_size"]) * scale, int(embedder["margin"]) * scale, f"as {run.name} says, enlarged"
    return 16, 4, "the defaults; no pretraining run says otherwise"


def _samples(runs: Runs) -> list[tuple[str, Path]]:
    """The first radiograph of each site, three at most."""
    found = []
    for cohort in runs.cohorts:
        for site in cohort.content.get("sites") or ():
            images = sorted((cohort.folder / site / "images").glob("*"))
            found += [(str(site), image) for image in images[:1]]
    return found[:3]


def _read(path: Path) -> Pixels | None:
    from msdino_monai.images.transforms import LoadRadiograph  # slow to import, and few pages need it

    try:
        return np.asarray(LoadRadiograph(_SIZE)(path)[0], dtype=np.float32)
    except RadiographError:
        return None  # the survey's own list says why; there is nothing to draw


def patches(image: Pixels, size: int, margin: int, seed: int | None = None) -> Pixels:
    """The picture as patches with gaps between them, in order or, with a seed, in a random one; margins are black."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size).swapaxes(1, 2)
    cut = cut.reshape(rows * columns, size, size).copy()  # (h, size, w, size) -> (h w, size, size)
    if margin:
        for side in (np.s_[:, :margin], np.s_[:, -margin:], np.s_[:, :, :margin], np.s_[:, :, -margin:]):
            cut[side] = 0
    if seed is not None:
        cut = cut[np.random.default_rng(seed).permutation(len(cut))]
    page = np.full((rows * (size + _GAP) - _GAP, columns * (size + _GAP) - _GAP), 0.25, dtype=np.float32)
    for number, patch in enumerate(cut):
        row, column = divmod(number, columns)
        page[row * (size + _GAP) :][:size, column * (size + _GAP) :][:, :size] = patch
    return page
