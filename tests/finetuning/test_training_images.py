from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureTyped, RandAdjustContrastd, RandGaussianNoised
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.finetuning.dataset import (
    ForgetsLength,
    ImageCache,
    TrainingImages,
    TrainingQuarantine,
    ValidationImages,
)
from msdino_monai.finetuning.sampler import EpochSampler
from msdino_monai.images.transforms import LoadRadiographd

READ = Compose([LoadRadiographd("image", img_size=16), EnsureTyped("label", dtype=torch.float32, track_meta=False)])
AUGMENT = Compose([RandAdjustContrastd("image", prob=0.5), RandGaussianNoised("image", prob=1.0, std=0.1)])


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, object]]:
    generator = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(generator.integers(0, 255, (20, 24), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return [{"image": str(tmp_path / f"{number}.png"), "label": [number % 2, -1]} for number in range(5)]


def training(items: list[dict[str, object]], tmp_path: Path, **settings: object) -> TrainingImages:
    return TrainingImages(items, READ, TrainingQuarantine(tmp_path / "notes"), **settings)  # type: ignore[arg-type]


def test_augmentation_is_a_function_of_seed_epoch_and_image(items: list[dict[str, object]], tmp_path: Path) -> None:
    images = training(items, tmp_path, augment=AUGMENT, seed=1)
    first = images[(3, 2)]["image"]
    images[(0, 1)]
    assert torch.equal(images[(3, 2)]["image"], first)
    for other in (images[(4, 2)], training(items, tmp_path, augment=AUGMENT, seed=2)[(3, 2)]):
        assert not torch.equal(other["image"], first)


def test_workers_and_the_main_process_augment_alike(items: list[dict[str, object]], tmp_path: Path) -> None:
    batches = []
    for workers in (0, 2):
        images = training(items, tmp_path, augment=AUGMENT, cache=ImageCache(tmp_path / "cache"))
        loader = DataLoader(images, sampler=EpochSampler(5, seed=4), batch_size=2, num_workers=workers)
        batches.append(torch.cat([batch["image"] for batch in loader]))
    assert torch.equal(batches[0], batches[1])


def test_cache_gives_what_was_read_and_only_to_its_owner(items: list[dict[str, object]], tmp_path: Path) -> None:
    plain, cache = training(items, tmp_path), ImageCache(tmp_path / "cache")
    cached = training(items, tmp_path, cache=cache)
    first = cached[1]
    torch.testing.assert_close(first["image"], plain[1]["image"], atol=1e-3, rtol=0)
    assert first["image"].dtype == torch.float32
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    kept = next((tmp_path / "cache").iterdir())
    saved = torch.load(kept, weights_only=True)
    torch.save({**saved, "image": torch.zeros(1, 16, 16).half()}, kept)
    assert not cached[1]["image"].any(), "the second time nothing is decoded"
    cache.remove()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("torn", [lambda whole: whole[:100], lambda _: b"", lambda whole: bytes(len(whole))])
def test_torn_file_of_the_cache_is_made_again(
    torn: Callable[[bytes], bytes], items: list[dict[str, object]], tmp_path: Path
) -> None:
    expected = training(items, tmp_path, cache=ImageCache(tmp_path / "cache"))[0]["image"]
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(torn(whole))
    assert torch.equal(training(items, tmp_path, cache=ImageCache(tmp_path / "cache"))[0]["image"], expected)
    assert len(kept.read_bytes()) == len(whole)


def test_changed_file_or_setting_is_read_again(items: list[dict[str, object]], tmp_path: Path) -> None:
    before = training(items, tmp_path, cache=ImageCache(tmp_path / "cache"))[0]["image"]
    Image.fromarray(np.eye(20, dtype=np.uint8) * 200).save(str(items[0]["image"]))
    after = training(items, tmp_path, cache=ImageCache(tmp_path / "cache"))[0]["image"]
    assert not torch.equal(before, after)
    training(items, tmp_path, cache=ImageCache(tmp_path / "cache", {"img_size": 17}))[0]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_unusable_file_is_noted_once_and_replaced(items: list[dict[str, object]], tmp_path: Path) -> None:
    Path(str(items[2]["image"])).write_bytes(b"no image")
    images = training(items, tmp_path)
    for epoch in range(3):
        assert torch.equal(images[(epoch, 2)]["image"], images[(epoch, 3)]["image"])
    assert [row["file"] for row in images.quarantine.rejected()] == [items[2]["image"]]
    assert (len(images), images.usable()) == (5, 4)


def test_training_on_nothing_is_refused(items: list[dict[str, object]], tmp_path: Path) -> None:
    for item in items:
        Path(str(item["image"])).write_bytes(b"")
    with pytest.raises(UserError, match="no image of the training section"):
        training(items, tmp_path)[0]


def test_validation_reads_every_usable_image_once(items: list[dict[str, object]], tmp_path: Path) -> None:
    Path(str(items[2]["image"])).write_bytes(b"no image")
    relative = [{**item, "image": Path(str(item["image"])).name} for item in items]
    quarantine = TrainingQuarantine(tmp_path)
    images = ValidationImages(relative, READ, tmp_path, quarantine, cache=ImageCache(tmp_path / "cache"))
    for _ in range(2):
        assert [sample["file"] for sample in images] == ["0.png", "1.png", "3.png", "4.png"]
    assert [row["file"] for row in quarantine.rejected()] == ["2.png"], "two epochs, one row"


@pytest.mark.parametrize(("rank", "batches"), [(0, 2), (1, 0)])
def test_every_validation_runs_whatever_the_last_one_found(
    rank: int, batches: int, items: list[dict[str, object]], tmp_path: Path
) -> None:
    """Of two ranks that share one image and another that cannot be used, one has nothing to validate on."""
    Path(str(items[1]["image"])).write_bytes(b"no image")
    images = ValidationImages(items[:3], READ, "/", TrainingQuarantine(tmp_path), rank=rank, world_size=2)
    loader, seen = DataLoader(images, batch_size=1), []
    network = torch.nn.Identity()
    handlers = [ForgetsLength()]
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader, network, val_handlers=handlers, decollate=False)
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: seen.append(engine.state.iteration))
    for epoch in (1, 2, 3):
        evaluator.run(epoch)
    assert seen == [batches] * 3


def test_order_is_another_every_epoch_and_shared_by_the_ranks() -> None:
    sampler = EpochSampler(7, seed=1)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert [epoch for epoch, _ in second] == [1] * 7
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(7))
    assert [index for _, index in first] != [index for _, index in second]
    ranks = [list(EpochSampler(7, 1, rank, 3)) for rank in range(3)]
    assert {len(share) for share in ranks} == {3}
    assert {index for share in ranks for _, index in share} == set(range(7))


def test_removing_the_cache_leaves_what_is_not_ours(items: list[dict[str, object]], tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    dataset = TrainingImages(items, LoadRadiographd("image", img_size=32), TrainingQuarantine(tmp_path), cache=cache)
    assert dataset[0]
    (tmp_path / "cache" / "mine.txt").touch()
    cache.remove()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine.txt"]
    (tmp_path / "cache" / "mine.txt").unlink()
    cache.remove()
    assert not (tmp_path / "cache").exists()
