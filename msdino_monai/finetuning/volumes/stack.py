"""Training on short stacks of slices, drawn from volumes as a function of seed, epoch and stack."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from msdino_monai.finetuning.dataset import TrainingImages


class TrainingStacks(TrainingImages):
    """`TrainingImages` that shows every volume several times an epoch; `augment` draws another stack each time.

    Args:
        stacks_per_volume: how often.
        arguments: those of `TrainingImages`, as are `settings`.
    """

    def __init__(self, *arguments: Any, stacks_per_volume: int = 1, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if stacks_per_volume < 1:
            raise ValueError(f"stacks_per_volume must be at least 1, got {stacks_per_volume}.")
        self.stacks_per_volume = stacks_per_volume

    def __len__(self) -> int:
        return len(self.data) * self.stacks_per_volume

    def _usable(self, index: int) -> dict[str, Any]:
        return super()._usable(index % len(self.data))


class RandStackd(Randomizable, MapTransform):
    """Cuts (C, H, W, S) to `num_slices` neighbouring slices; shorter volumes are padded with zeros on both sides.

    With the probability `foreground` they hold a slice with one of the mask's classes. The class is drawn first, so
    that small lesions are seen as often as large organs.

    Args:
        keys: what is cut.
        label_key: the mask of class numbers, one of `keys`.
        num_slices: how many.
        foreground: share of the stacks that must show something.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str = "label", num_slices: int = 5, foreground: float = 0.5
    ) -> None:
        super().__init__(keys)
        if num_slices < 1:
            raise ValueError(f"num_slices must be at least 1, got {num_slices}.")
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground must be in [0, 1], got {foreground}.")
        self.label_key, self.num_slices, self.foreground = label_key, num_slices, foreground
        self.start = 0

    def randomize(self, data: torch.Tensor) -> None:
        """Where the stack begins in a mask (1, H, W, S)."""
        depth = data.shape[-1]
        chosen = int(self.R.randint(depth))
        if self.R.random_sample() < self.foreground:
            present = [number for number in torch.unique(data).tolist() if number > 0]
            if present:
                number = present[self.R.randint(len(present))]
                holding = (data == number).flatten(0, -2).any(dim=0).nonzero()[:, 0].tolist()
                chosen = int(holding[self.R.randint(len(holding))])
        first = chosen - int(self.R.randint(self.num_slices))
        self.start = min(max(first, 0), max(depth - self.num_slices, 0))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        cut = dict(data)
        self.randomize(_plain(cut[self.label_key]))
        for key in self.key_iterator(cut):
            stack = _plain(cut[key])[..., self.start : self.start + self.num_slices]
            missing = self.num_slices - stack.shape[-1]
            cut[key] = F.pad(stack, (missing // 2, missing - missing // 2)) if missing else stack
        return cut


def _plain(values: torch.Tensor) -> torch.Tensor:
    """A stack lies where augmentation puts it; the volume's place in the patient is of no use any more."""
    return values.as_tensor() if isinstance(values, MetaTensor) else values
