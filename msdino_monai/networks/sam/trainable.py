"""Which parameters of a SamSegmenter are trained, and travel: FLAP-SAM's choice and those it is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from msdino_monai.errors import UserError

_OUTPUT = r"mask_decoder\.(output_upscaling|output_hypernetworks_mlps|mask_tokens)\..*"
_ADAPTERS = r".*\.lora_[ab]"
_TRAINED = {
    "flap": f"{_ADAPTERS}|{_OUTPUT}",
    "lora": _ADAPTERS,
    "lora_decoder": rf"{_ADAPTERS}|mask_decoder\..*",
    "decoder": r"mask_decoder\..*",
    "partial_decoder": _OUTPUT,
    "full": ".*",
}
# SAM's own parts that no class's logits depend on: they count as trained where they are, but get no gradient.
_ASKED_NOTHING = re.compile(
    r"mask_decoder\.iou_prediction_head\..*"
    r"|prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\..*"
)


def has_adapters(trainable: str) -> bool:
    """Whether this choice trains adapters; a name that is no choice is refused."""
    if trainable not in _TRAINED:
        raise UserError(f"trainable {trainable} is not known; set trainable to one of {', '.join(_TRAINED)}.")
    return _TRAINED[trainable].startswith(_ADAPTERS)


def choose(network: nn.Module, trainable: str) -> None:
    """Let exactly these parameters require a gradient."""
    pattern = re.compile(_TRAINED[trainable])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(pattern.fullmatch(name) is not None)


@contextmanager
def chosen(network: nn.Module, trainable: str) -> Iterator[None]:
    """For a while this choice holds again, whatever else has been frozen since."""
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    choose(network, trainable)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def without_gradient(network: nn.Module) -> list[str]:
    """The names of parameters that no logits depend on, trained or not."""
    return [name for name, _ in network.named_parameters() if _ASKED_NOTHING.fullmatch(name)]
