"""Masked sampling: random subsets of an image's tokens take the place of DINO's crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from msdino_monai.pretraining.keyed import keyed_bits, keyed_uniform

Share = float | Sequence[float]

# What a random number is for; two uses must not share their bits.
_LARGE, _SMALL, _LARGE_SHARE, _SMALL_SHARE, _VIEW, _HIDDEN_TOKEN, _HIDDEN_CHANNEL = range(7)


class Subsets(NamedTuple):
    """The token subsets of one batch; those of equal length lie in one tensor and run in one pass.

    large: (2, B, K, D), for teacher and student. small: (L, B, k, D), for the student.
    hidden: (2, B, K), True where the student's large subsets have lost channels; None without the token term.
    """

    large: torch.Tensor
    small: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    partly_hidden: torch.Tensor | None = None

    def for_student(self) -> list[torch.Tensor]:
        large = self.large if self.partly_hidden is None else self.partly_hidden
        return [large] if self.small is None else [large, self.small]


def draw_subsets(
    num_tokens: int, keep: int, count: int, images: npt.NDArray[np.int64], *keys: int
) -> npt.NDArray[np.int64]:
    """`count` subsets of `keep` of an image's tokens, uniform and without replacement, (count, B, keep)."""
    subset = np.arange(count)[:, None, None]
    bits = keyed_bits(*keys, images[:, None], subset, np.arange(num_tokens))  # (count, B, N)
    return np.argsort(bits, axis=-1)[..., :keep]


def draw_share(share: Share, *keys: int) -> float:
    """The share itself, or one drawn evenly between its two bounds."""
    if isinstance(share, int | float):
        return float(share)
    low, high = share
    return low + (high - low) * float(keyed_uniform(*keys))


def check_share(name: str, share: Share) -> Share:
    """A number in (0, 1], or two of them, rising."""
    bounds = [share] if isinstance(share, int | float) else list(share)
    if len(bounds) > 2 or not all(isinstance(bound, int | float) and 0 < bound <= 1 for bound in bounds):
        raise ValueError(f"{name} must be in (0, 1], or two bounds in it, got {share}.")
    if bounds[0] > bounds[-1]:
        raise ValueError(f"{name} must name its lower bound first, got {share}.")
    return bounds[0] if len(bounds) == 1 else (float(bounds[0]), float(bounds[1]))


class MaskedSampling:
    """Draws the subsets of a batch on its device; a `prepare_batch` for MONAI's engines.

    A function of seed, epoch, batch and image: the same on one rank and on many, before and after an interruption.

    Args:
        global_share: how many of the tokens a large subset keeps, or two bounds to draw from for every batch.
        local_share: the same for a small one.
        num_local: small subsets of each image.
        hidden_share: 0, or how many tokens of the student's large subsets lose most of their channels.
        hidden_channels: how many of its channels such a token loses.
        seed: of all that is drawn.
    """

    num_large = 2

    def __init__(
        self,
        global_share: Share = 0.75,
        local_share: Share = 0.4,
        num_local: int = 4,
        hidden_share: float = 0.0,
        hidden_channels: float = 0.75,
        seed: int = 0,
    ) -> None:
        self.global_share = check_share("global_share", global_share)
        self.local_share = check_share("local_share", local_share)
        if num_local < 0:
            raise ValueError(f"num_local must not be negative, got {num_local}.")
        if not 0 <= hidden_share < 1 or not 0 < hidden_channels <= 1:
            raise ValueError(f"hidden shares must be below 1, got {hidden_share} of tokens, {hidden_channels}.")
        self.num_local, self.seed = num_local, seed
        self.hidden_share, self.hidden_channels = hidden_share, hidden_channels

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | str | None, non_blocking: bool = False, **_: Any
    ) -> tuple[Subsets, None]:
        """`image` (B, V, N, D), `index` (B,), `epoch` and `batch` to the batch's subsets; there are no labels."""
        tokens = batch["image"].to(device, non_blocking=non_blocking)
        images, epoch, number = np.asarray(batch["index"]), int(batch["epoch"]), int(batch["batch"])
        keys = (self.seed, epoch, number)
        share = draw_share(self.global_share, *keys, _LARGE_SHARE)
        large, small = self._draw(tokens, images, _LARGE, self.num_large, share, epoch), None
        if self.num_local:
            share = draw_share(self.local_share, *keys, _SMALL_SHARE)
            small = self._draw(tokens, images, _SMALL, self.num_local, share, epoch)
        if not self.hidden_share:
            return Subsets(large, small), None
        return self._hide(Subsets(large, small), images, epoch), None

    def sizes(self, num_tokens: int) -> tuple[int, int]:
        """The most tokens in a large and in a small subset."""
        return _kept(num_tokens, np.max(self.global_share)), _kept(num_tokens, np.max(self.local_share))

    def _draw(
        self, tokens: torch.Tensor, images: npt.NDArray[np.int64], use: int, count: int, share: float, epoch: int
    ) -> torch.Tensor:
        num_views, num_tokens = tokens.shape[1:3]
        keep = _kept(num_tokens, share)
        places = torch.from_numpy(draw_subsets(num_tokens, keep, count, images, self.seed, epoch, use))
        # With several views the subsets of an image take turns, so that the two large ones never share a view.
        start = keyed_bits(self.seed, epoch, _VIEW, images) % np.uint64(num_views)
        views = torch.from_numpy((start.astype(np.int64) + np.arange(count)[:, None]) % num_views)  # (count, B)
        rows = torch.arange(len(images))[None, :, None]
        index = [part.to(tokens.device) for part in (rows, views[..., None], places)]
        return tokens[index[0], index[1], index[2]].float()  # (B, V, N, D) -> (count, B, keep, D)

    def _hide(self, subsets: Subsets, images: npt.NDArray[np.int64], epoch: int) -> Subsets:
        """Tokens without an address cannot be asked for by a mask alone: what is left of a token says which it was."""
        count, _, keep, channels = subsets.large.shape
        subset, token = np.arange(count)[:, None, None], np.arange(keep)
        hidden = keyed_uniform(self.seed, epoch, _HIDDEN_TOKEN, images[:, None], subset, token) < self.hidden_share
        address = keyed_bits(self.seed, epoch, _HIDDEN_CHANNEL, images[:, None], subset, token)
        lost = keyed_uniform(address[..., None], np.arange(channels)) < self.hidden_channels
        device = subsets.large.device
        where = torch.from_numpy(hidden[..., None] & lost).to(device)  # (count, B, keep, D)
        return subsets._replace(
            hidden=torch.from_numpy(hidden).to(device), partly_hidden=subsets.large.masked_fill(where, 0.0)
        )


def _kept(num_tokens: int, share: float) -> int:
    return max(1, round(share * num_tokens))
