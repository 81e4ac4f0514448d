from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from privacy_exports import Sample

from msdino_monai.errors import UserError
from msdino_monai.privacy.inversion import invert, join_patches
from msdino_monai.privacy.jigsaw import JigsawAttack
from msdino_monai.privacy.knowledge import Knowledge
from msdino_monai.privacy.truth import RecordViewsd, read_orders


def test_files_and_kept_orders_give_the_pictures_back(undefended: Sample, radiographs: Path) -> None:
    """What the attacks are judged by is what truly lies in the export."""
    evidence, orders, pictures = undefended.evidence(), undefended.orders(), undefended.pictures(radiographs)
    assert evidence.tokens.shape == (4, 1, 196, 384)
    assert (evidence.noise, evidence.dtype) == (0.0, "float16")
    for image, views in zip(evidence.image_ids, evidence.tokens, strict=True):
        restored = join_patches(invert(views[0], evidence.embedder), orders[image][0], (14, 14))
        np.testing.assert_allclose(restored, pictures[image], atol=2e-3)


def test_export_without_kept_orders_cannot_be_judged(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    with pytest.raises(UserError, match="export the sample with order_recipients"):
        read_orders(tmp_path, tmp_path / "identity.txt")


def test_recorded_views_are_those_that_go_on(tmp_path: Path) -> None:
    views = torch.rand(2, 1, 8, 8)
    item = {"image": views, "image_id": "ab"}
    passed = RecordViewsd("image", tmp_path / "views")(item)
    assert passed["image"] is views
    np.testing.assert_array_equal(np.load(tmp_path / "views" / "ab.npy"), views[:, 0].numpy())


def test_attacks_say_what_they_know(undefended: Sample) -> None:
    attack = JigsawAttack(undefended.evidence().embedder)
    assert attack.knowledge == Knowledge(all_views=True)
    assert attack.alone().knowledge.describe()["all_views"] is False
    assert attack.knowledge.describe()["embedder"] is True
