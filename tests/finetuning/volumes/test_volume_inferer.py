from __future__ import annotations

import pytest
import torch

from msdino_monai.finetuning.volumes import StackInferer


class Neighbours(torch.nn.Module):
    """Scores that depend on the window a slice is seen in: each slice gets its window's mean."""

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        means = stack.mean(dim=-1, keepdim=True).expand_as(stack)
        return torch.cat([means * 9, stack * 3, -means], dim=1)


def test_probabilities_of_overlapping_windows_are_averaged() -> None:
    """By hand: windows of 5 slices in steps of 2, the last one moved back to the end."""
    volume = torch.rand(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(0))
    network = Neighbours()
    found = StackInferer(8, 5, overlap=0.5)(volume, network)
    total, seen = torch.zeros(1, 3, 8, 8, 12), torch.zeros(12)
    for start in (0, 2, 4, 6, 7):
        total[..., start : start + 5] += network(volume[..., start : start + 5]).softmax(dim=1)
        seen[start : start + 5] += 1
    torch.testing.assert_close(found, total / seen)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 8, 8, 12))
    scores = sum(network(volume[..., start : start + 5])[..., 6 - start] for start in (2, 4, 6)) / 3
    assert not torch.allclose(found[..., 6], scores.softmax(dim=1))  # averaged scores would be something else


def test_windows_at_once_change_nothing() -> None:
    volume = torch.rand(1, 1, 8, 8, 13, generator=torch.Generator().manual_seed(1))
    one, four = (StackInferer(8, 5, overlap=0.4, windows=count)(volume, Neighbours()) for count in (1, 4))
    torch.testing.assert_close(one, four)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_short_volumes_are_padded_and_cut_again(slices: int) -> None:
    volume = torch.rand(1, 1, 8, 8, slices, generator=torch.Generator().manual_seed(2))
    before = (5 - slices) // 2
    padded = torch.nn.functional.pad(volume, (before, 5 - slices - before))
    expected = Neighbours()(padded).softmax(dim=1)[..., before : before + slices]
    torch.testing.assert_close(StackInferer(8, 5)(volume, Neighbours()), expected)


def test_overlap_of_a_whole_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap must be in \[0, 1\), got 1"):
        StackInferer(8, 5, overlap=1)
