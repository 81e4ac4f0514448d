from __future__ import annotations

from pathlib import Path

import pytest
import torch

from msdino_monai.finetuning import TrainingQuarantine
from msdino_monai.finetuning.volumes import RandStackd, TrainingStacks


def sample(depth: int = 20) -> dict[str, torch.Tensor]:
    """Slices numbered from 1, one slice with a large class 1, one with a single voxel of class 2."""
    image = torch.arange(1.0, depth + 1).expand(1, 4, 4, depth).clone()
    label = torch.zeros(1, 4, 4, depth, dtype=torch.uint8)
    label[..., 3], label[0, 0, 0, depth - 2] = 1, 2
    return {"image": image, "label": label}


def stacks(count: int, foreground: float) -> list[dict[str, torch.Tensor]]:
    cut = RandStackd(["image", "label"], num_slices=5, foreground=foreground)
    cut.set_random_state(seed=0)
    return [cut(sample()) for _ in range(count)]


def test_stacks_are_neighbouring_slices_of_image_and_mask() -> None:
    for stack in stacks(50, 0.5):
        numbers = stack["image"][0, 0, 0]
        assert (numbers.diff() == 1).all()
        assert ((stack["label"] == 1).any(dim=1).any(dim=1)[0] == (numbers == 4)).all()


def test_a_single_voxel_is_shown_as_often_as_a_large_organ() -> None:
    drawn = stacks(400, 1.0)
    shares = [sum(bool((stack["label"] == number).any()) for stack in drawn) / 400 for number in (1, 2)]
    assert all(0.4 < share < 0.6 for share in shares)


def test_every_slice_is_drawn_without_foreground() -> None:
    seen = {int(number) for stack in stacks(400, 0.0) for number in stack["image"][0, 0, 0]}
    assert seen == set(range(1, 21))


def test_short_volumes_are_padded_on_both_sides() -> None:
    cut = RandStackd(["image", "label"], num_slices=5)
    cut.set_random_state(seed=0)
    label = torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    stack = cut({"image": torch.ones(1, 4, 4, 2), "label": label})
    assert stack["image"][0, 0, 0].tolist() == [0, 1, 1, 0, 0]
    assert stack["label"].shape == (1, 4, 4, 5)


def test_a_stack_is_a_function_of_seed_epoch_and_number(tmp_path: Path) -> None:
    def data(seed: int) -> TrainingStacks:
        return TrainingStacks(
            [{"image": "0"}, {"image": "1"}],
            lambda item: {**sample(), "which": item["image"]},
            TrainingQuarantine(tmp_path),
            augment=RandStackd(["image", "label"], num_slices=5, foreground=0.0),
            seed=seed,
            stacks_per_volume=8,
        )

    first, again, other = data(1), data(1), data(2)
    assert len(first) == 16
    starts = [[int(each[epoch, n]["image"].min()) for n in range(16)] for each in (first, again) for epoch in (0, 1)]
    assert starts[0] == starts[2]
    assert starts[1] == starts[3]
    assert starts[0] != starts[1]
    assert [int(other[0, n]["image"].min()) for n in range(16)] != starts[0]
    assert len(set(starts[0][::2])) > 1  # another stack each time
    assert [first[0, n]["which"] for n in range(4)] == ["0", "1", "0", "1"]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_slices must be at least 1, got 0"):
        RandStackd("image", num_slices=0)
    with pytest.raises(ValueError, match=r"foreground must be in \[0, 1\], got 2"):
        RandStackd("image", foreground=2)
