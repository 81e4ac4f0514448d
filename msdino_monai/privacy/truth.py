"""What the hospital knows and the attacker does not: kept only to judge an attack, never handed to one."""

from __future__ import annotations

import io
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from msdino_monai.errors import UserError
from msdino_monai.privacy.assembly import AssemblyScore, patch_classes, score_assembly, top_match
from msdino_monai.privacy.embedder import KnownEmbedder
from msdino_monai.privacy.inversion import cut_patches, join_patches
from msdino_monai.privacy.jigsaw import Assembly
from msdino_monai.privacy.similarity import Similarity, compare_pictures
from msdino_monai.vault import read_identities, unseal

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class RecordViewsd(MapTransform):
    """Keep the augmented views (V, 1, H, W) of a sample image as `<image_id>.npy`, in a folder of the hospital's own.

    The last step of the sample's preprocessing; the views go on unchanged.
    """

    def __init__(self, keys: KeysCollection, folder: str | Path) -> None:
        super().__init__(keys)
        self.folder = Path(folder)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(dict(data)):
            views = torch.as_tensor(data[key])[:, 0].numpy().astype(np.float32)
            np.save(self.folder / f"{data['image_id']}.npy", views)
        return dict(data)


def read_orders(state_dir: str | Path, identity: str | Path) -> dict[bytes, Integers]:
    """The orders (V, K) of every image of an export written with `order_recipients`, by salted id."""
    files = sorted((Path(state_dir) / "orders").glob("[!.]*.npy.age"))
    if not files:
        raise UserError(f"{state_dir} keeps no orders; export the sample with order_recipients.")
    keys = read_identities(identity)
    orders: dict[bytes, Integers] = {}
    for file in files:
        table = np.load(io.BytesIO(unseal(file.read_bytes(), keys, file)), allow_pickle=False)
        orders |= {row["image"].tobytes(): row["orders"].astype(np.int64) for row in table}
    return orders


@dataclass(frozen=True)
class AssemblyReport:
    """One view's attack, judged: the puzzle, pairs before assembly, and pictures before and after the solver.

    `shuffled` is the picture of the inverted patches as they came, `solved` the assembled one, and `known_order` what
    inversion alone gives somebody who knows the order: the most any solver could reach.
    """

    assembly: AssemblyScore
    top_match: float
    shuffled: Similarity
    solved: Similarity
    known_order: Similarity


def judge_assembly(found: Assembly, view: Floats, order: Integers, embedder: KnownEmbedder) -> AssemblyReport:
    """Compare with the true view (H, W) and the true order (K,) of its tokens."""
    grid = embedder.grid
    visible = cut_patches(view[None], embedder.patch_size, embedder.margin)[0]
    classes = patch_classes(visible.reshape(len(visible), -1))
    as_they_came = np.arange(len(order))

    def picture(cells: Integers) -> Similarity:
        return compare_pictures(join_patches(found.patches, cells, grid), view)

    return AssemblyReport(
        assembly=score_assembly(found.cells, order, classes, grid),
        top_match=top_match(found.scores.right, order, classes, grid[1]),
        shuffled=picture(as_they_came),
        solved=picture(found.cells),
        known_order=picture(order),
    )
