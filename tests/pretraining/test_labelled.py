from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretraining_runs import EMBEDDER, store_of

from msdino_monai.errors import UserError
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.networks import PatchEmbedding
from msdino_monai.pretraining import embedding_of, read_labelled, read_probe_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def datalist(folder: Path, **sections: list[tuple[str, Any]]) -> Path:
    content = {name: [{"image": image, "label": label} for image, label in items] for name, items in sections.items()}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def test_embedder_is_drawn_again_from_its_description() -> None:
    drawn = embedding_of(EMBEDDER.describe())
    assert torch.equal(drawn.weight, EMBEDDER.weight)
    assert drawn.describe() == EMBEDDER.describe()
    margin = PatchEmbedding(24, 8, 5, margin=1, seed=3, position_scale=0.5)
    assert embedding_of(margin.describe()).describe() == margin.describe()


def test_other_embedder_and_missing_checkpoint_are_refused() -> None:
    with pytest.raises(UserError, match="use the version of this package"):
        embedding_of({**EMBEDDER.describe(), "seed": 5})
    without_seed = {name: value for name, value in EMBEDDER.describe().items() if name != "seed"}
    with pytest.raises(UserError, match="give it as --embedder_checkpoint"):
        embedding_of(without_seed)


def test_labelled_images_become_the_tokens_of_an_export(images: Path, export: Path, tmp_path: Path) -> None:
    path = datalist(
        images,
        training=[("0.png", [1, 0]), ("broken.png", [1, 1]), ("1.png", [0, -1])],
        test=[("2.png", [1, 1])],
    )
    read = read_probe_images(str(path), None, store_of(export), None, tmp_path / "out")
    assert read is not None
    assert read.keys() == {"training", "test"}
    assert read["training"].labels.tolist() == [[1, 0], [0, -1]], "an unusable image takes its label with it"
    expected = EMBEDDER(LoadRadiograph(24)(images / "1.png")[None].as_tensor())[0]
    torch.testing.assert_close(read["training"].tokens[1].float(), expected, atol=2e-3, rtol=2e-3)
    assert "broken.png" in (tmp_path / "out" / "probe" / "quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": [("0.png", [1])], "test": [("1.png", [1, 0])]}, "labels of lengths"),
        ({"training": [("0.png", [1])]}, "needs a training section"),
        ({"validation": [("0.png", [1])], "test": [("1.png", [0])]}, "needs a training section"),
        ({"training": [("0.png", 1)], "test": [("1.png", 0)]}, "needs a label, a list"),
        ({"training": [("0.png", ["yes"])], "test": [("1.png", ["no"])]}, "needs a label, a list"),
        ({"training": [("broken.png", [1])], "test": [("1.png", [0])]}, "no image of the training section"),
        ({}, "names no images"),
        ({"training": [("../0.png", [1])], "test": [("1.png", [0])]}, "reaches outside dataset_dir"),
    ],
)
def test_datalist_that_cannot_be_used_gets_one_line(
    sections: dict[str, Any], message: str, images: Path, tmp_path: Path
) -> None:
    path = datalist(images, **sections)
    (tmp_path / "probe").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        read_labelled(path, images, EMBEDDER, Quarantine(str(tmp_path / "probe")))
    assert "\n" not in str(caught.value)
