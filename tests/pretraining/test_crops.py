"""DINO's crops of images in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.networks import PatchEmbedding
from msdino_monai.pretraining import CropSampling, FirstRanksQuarantine, GatheredImages


@pytest.fixture
def embedding() -> PatchEmbedding:
    return PatchEmbedding(img_size=64, patch_size=16, embedding_dim=32, position_scale=0.5)


def batch_of(images: torch.Tensor, index: list[int], epoch: int = 0) -> dict[str, Any]:
    return {"image": images[index][:, None], "index": np.array(index), "epoch": epoch, "batch": 0}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 1, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_depend_on_image_and_epoch_and_not_on_the_batch(embedding: PatchEmbedding, images: torch.Tensor) -> None:
    sampling = CropSampling(embedding, seed=3)
    together, _ = sampling(batch_of(images, [0, 1, 2, 3]), "cpu")
    apart, _ = sampling(batch_of(images, [3, 1]), "cpu")
    later, _ = sampling(batch_of(images, [3, 1], epoch=1), "cpu")
    assert together.large.shape == (2, 4, 16, 32)
    assert together.small is not None
    assert together.small.shape == (4, 4, 4, 32)
    torch.testing.assert_close(together.large[:, [3, 1]], apart.large)
    assert not torch.allclose(later.large, apart.large)
    assert not torch.allclose(apart.large[0], apart.large[1])


def test_large_crop_of_an_even_image_is_what_the_embedder_makes_of_it(embedding: PatchEmbedding) -> None:
    even = torch.full((1, 1, 80, 80), 51, dtype=torch.uint8)
    subsets, _ = CropSampling(embedding, global_area=0.5, rotate=0.0, gamma=(1.0, 1.0))(batch_of(even, [0]), "cpu")
    torch.testing.assert_close(subsets.large[0], embedding(torch.full((1, 1, 64, 64), 0.2)))


def test_crops_keep_their_orientation() -> None:
    ramp = torch.arange(80, dtype=torch.uint8).mul(3).expand(1, 1, 80, 80)  # brighter to the right
    bare = PatchEmbedding(img_size=64, patch_size=16, embedding_dim=256)
    subsets, _ = CropSampling(bare)(batch_of(ramp, [0]), "cpu")
    for crops, side in ((subsets.large, 4), (subsets.small, 2)):
        assert crops is not None
        pixels = torch.einsum("cbnd,dhw->cbnhw", crops, bare.weight[:, 0])  # the map is orthonormal
        columns = pixels.mean(dim=(-2, -1)).unflatten(-1, (side, side)).mean(dim=-2)
        assert (columns.diff(dim=-1) > 0).all()


def test_position_codes_are_stretched_over_small_crops(embedding: PatchEmbedding) -> None:
    grey = torch.full((1, 1, 80, 80), 127, dtype=torch.uint8)
    subsets, _ = CropSampling(embedding, gamma=(1.0, 1.0))(batch_of(grey, [0]), "cpu")
    assert subsets.small is not None
    codes = embedding.positions.reshape(4, 4, 32)
    corner, across = subsets.small[0, 0, 0], subsets.small[0, 0, 3]
    assert torch.dist(corner, codes[0, 0]) < torch.dist(corner, codes[3, 3])
    assert torch.dist(across, codes[3, 3]) < torch.dist(across, codes[0, 0])


@pytest.mark.parametrize("bad", [{"global_area": 0.0}, {"local_area": (0.4, 0.1)}, {"num_local": -1}])
def test_impossible_crops_are_refused(embedding: PatchEmbedding, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        CropSampling(embedding, **bad)


def write_hospital(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_images_of_hospitals_are_gathered_and_only_those_for_training(
    embedding: PatchEmbedding, tmp_path: Path
) -> None:
    write_hospital(tmp_path / "data" / "north", 3)
    write_hospital(tmp_path / "data" / "south", 4)
    sections = {"training": ["0.png", "1.png"], "test": ["2.png", "3.png"]}
    content = {name: [{"image": file, "label": [0]} for file in files] for name, files in sections.items()}
    (tmp_path / "data" / "south" / "datalist.json").write_text(json.dumps(content))
    (tmp_path / "data" / "north" / "broken.png").write_bytes(b"no image")
    quarantine = Quarantine(tmp_path)
    store = GatheredImages(tmp_path / "data", embedding, 80, quarantine)
    assert store.sites == [("north", 3), ("south", 2)]
    assert [row["file"] for row in quarantine.rejected()] == ["broken.png"]
    assert store.gather([4, 0]).shape == (2, 1, 80, 80)
    north, south = store.manifests()
    assert (north["images"], south["images"]) == (3, 2)
    assert north["images_sha256"] != south["images_sha256"]


def test_folder_without_hospitals_is_refused(embedding: PatchEmbedding, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hospitals' folders"):
        GatheredImages(tmp_path, embedding, 80, Quarantine(tmp_path))


def test_first_rank_notes_what_this_reading_could_not_use(
    embedding: PatchEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hospital(tmp_path / "data" / "north", 2)
    (tmp_path / "data" / "north" / "broken.png").write_bytes(b"no image")
    quarantine = FirstRanksQuarantine(tmp_path)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        GatheredImages(tmp_path / "data", embedding, 80, quarantine)
        assert [row["file"] for row in quarantine.rejected()] == ["broken.png"]
    monkeypatch.delenv("RANK")
    (tmp_path / "data" / "north" / "broken.png").unlink()
    GatheredImages(tmp_path / "data", embedding, 80, quarantine)
    assert quarantine.rejected() == []
