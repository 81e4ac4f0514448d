"""The pretrained body on its way back to the hospitals: plain tensors, and a signed description of what they are."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from msdino_monai import __version__
from msdino_monai.errors import UserError
from msdino_monai.networks import ImageEncoder, PatchEmbedding
from msdino_monai.networks.difference import body_sizes, count_tokens, differences, sizes_in, state_difference
from msdino_monai.networks.public_vit import (
    IMAGENET,
    Normalisation,
    from_public_checkpoint,
    is_public,
    resize_positions,
)
from msdino_monai.networks.weights import State, decode_tensors, hash_tensors
from msdino_monai.vault.atomic import make_folder, read_file, write_file
from msdino_monai.vault.manifest import canonical
from msdino_monai.vault.signing import read_public_key, read_signing_key, verifies

FORMAT = "msdino_monai backbone"
FORMAT_VERSION = 1
SAID_BY_THE_CALLER = ("body", "embedder", "sites", "settings", "trained")

_DOMAIN = b"msdino_monai backbone\n"
_EMBEDDER = "embedding.weight"
_POSITIONS = "body.positions"


class BackboneError(UserError):
    """Backbone files that are damaged, not genuine, or of another network."""


@dataclass(frozen=True)
class Backbone:
    """The tensors of a backbone file, and its description where one lies beside it."""

    state: State
    description: Mapping[str, Any] | None
    path: Path


def save_backbone(
    folder: str | Path,
    encoder_state: State,
    description: Mapping[str, Any],
    *,
    name: str = "model",
    signing_key: str | Path | None = None,
) -> Path:
    """Write `<name>.pt`, `<name>.safetensors` and, last, `<name>.json`; the same input gives the same bytes.

    Args:
        folder: where to; made if absent.
        encoder_state: the state dict of an ImageEncoder, without `embedding.weight` where it is not known.
        description: plain JSON under `body` (see `body_sizes`), `embedder` (`PatchEmbedding.describe()`), `sites`
            (`TokenStore.manifests()`), `settings` and `trained`.
        name: the files' name.
        signing_key: the coordinator's signing key, or None to leave the description unsigned.
    """
    key = None if signing_key is None else read_signing_key(signing_key)
    state = {tensor_name: _plain(tensor_name, encoder_state[tensor_name]) for tensor_name in sorted(encoder_state)}
    if description.keys() != set(SAID_BY_THE_CALLER):
        raise ValueError(f"description must hold {', '.join(SAID_BY_THE_CALLER)}, got {', '.join(description)}.")
    said = json.loads(json.dumps({field: description[field] for field in SAID_BY_THE_CALLER}, allow_nan=False))
    sizes = {**sizes_in(state), "num_heads": said["body"].get("num_heads")}
    if sizes != said["body"] or sizes["num_heads"] is None:
        raise ValueError(f"the body described is {said['body']}, the one given {sizes}.")
    if "sha256" not in said["embedder"]:
        raise ValueError(f"embedder must be what PatchEmbedding.describe() says, got {said['embedder']}.")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {f"{name}.pt": buffer.getvalue(), f"{name}.safetensors": safetensors.torch.save(state)}
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **said,
        "files": {file: {"sha256": _sha256(data), "bytes": len(data)} for file, data in files.items()},
        "tensors_sha256": hash_tensors(state),
        "package_version": __version__,
        "coordinator": None if key is None else key.public,
    }
    signature = None if key is None else key.sign(_signed_part(content))
    files[f"{name}.json"] = _encode({**content, "signature": signature})
    folder = Path(folder).expanduser()
    make_folder(folder)
    for file, data in files.items():
        write_file(folder / file, data)
    return folder / f"{name}.pt"


def read_backbone(path: str | Path, *, coordinator_key: str | Path | None = None) -> Backbone:
    """The backbone in a .pt or .safetensors file, or in the folder that holds `model.*`, checked.

    A description beside it (`model.json`) must fit the file to the byte. With `coordinator_key`, an `ed25519:...` line
    or the file that holds it, the description must be there and be signed with that key.
    """
    path = _file_of(Path(path).expanduser())
    data = read_file(path.resolve())
    beside = path.with_suffix(".json")
    description = _read_description(beside) if beside.exists() else None
    if coordinator_key is not None:
        if description is None:
            raise BackboneError(
                f"{beside} is missing, so nothing says who made {path.name}; ask the coordinator for it."
            )
        if not _is_signed(description, read_public_key(coordinator_key)):
            raise BackboneError(
                f"{beside} is not signed with the coordinator's key; ask the coordinator for their file."
            )
    if description is not None:
        _refuse_other_file(description, path, data)
    state = decode_tensors(path, data)
    if description is not None and hash_tensors(state) != description["tensors_sha256"]:
        raise BackboneError(
            f"the tensors in {path} are not those {beside.name} describes; ask the coordinator for both."
        )
    return Backbone(state, description, path)


def load_backbone(
    encoder: ImageEncoder,
    path: str | Path,
    *,
    coordinator_key: str | Path | None = None,
    embedder_must_match: bool = True,
    normalisation: Normalisation = IMAGENET,
) -> Backbone:
    """Load a backbone into an encoder, in place, or refuse with everything that does not fit.

    The encoder's position codes are resized from the file's; where the file has none they stay as they are (zero in a
    new encoder). The encoder's patch embedding must be the one the backbone was trained with, at any image size;
    without `embedder_must_match` the encoder takes the file's where the file holds it, and keeps its own otherwise.

    A published ViT (DINO, DINOv2, DeiT, timm, Hugging Face, MONAI) loads as well. The encoder then takes the ViT's
    patch embedding, folded for pictures of this `normalisation`, so that `encoder.embedding.describe()` has another
    hash than before; the Backbone returned holds the tensors as they were loaded.
    """
    backbone = read_backbone(path, coordinator_key=coordinator_key)
    if is_public(backbone.state):
        return _load_public(encoder, backbone, normalisation)
    source = backbone.path.name
    state = dict(backbone.state)
    expected = encoder.state_dict()
    embedder = state.pop(_EMBEDDER, None)
    if embedder_must_match or embedder is None:
        expected.pop(_EMBEDDER)
    else:
        state[_EMBEDDER] = embedder
    if _POSITIONS not in state:
        expected.pop(_POSITIONS, None)
    elif _POSITIONS in expected:
        state[_POSITIONS] = _fitted(state[_POSITIONS], expected[_POSITIONS])
    lines = _hidden_differences(encoder, backbone, _EMBEDDER in state) + state_difference(expected, state, source)
    if lines:
        raise BackboneError(_listed(f"{backbone.path} does not fit this network; give it the file's sizes:", lines))
    if embedder_must_match:
        _refuse_other_embedder(backbone, encoder.embedding)
    encoder.load_state_dict(state, strict=False)  # what may be missing was taken out above
    if _EMBEDDER in state and backbone.description is not None:
        _name_embedder(encoder.embedding, backbone.description["embedder"])
    return backbone


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A copy that shares nothing with the network it came from."""
    if name != _EMBEDDER and not name.startswith("body."):
        raise ValueError(f"encoder_state must be the state dict of an ImageEncoder, got {name!r}.")
    plain = tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(plain).all():
        raise BackboneError(f"{name} is not finite: the training diverged; repeat it with a lower learning_rate.")
    return plain


def _encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of the description: the content, and a checksum that finds accidents where nobody signed."""
    content = {field: value for field, value in content.items() if field != "sha256"}
    return (json.dumps({**content, "sha256": _sha256(canonical(content))}, indent=1) + "\n").encode("ascii")


def _signed_part(description: Mapping[str, Any]) -> bytes:
    seals = ("signature", "sha256")
    return _DOMAIN + canonical({field: value for field, value in description.items() if field not in seals})


def _is_signed(description: Mapping[str, Any], public_key: str) -> bool:
    signature = description["signature"]
    return isinstance(signature, str) and verifies(public_key, _signed_part(description), signature)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / file for file in ("model.pt", "model.safetensors") if (path / file).exists()), None)
    if found is None:
        raise BackboneError(f"{path} holds neither model.pt nor model.safetensors; name the backbone's file.")
    return found


def _read_description(path: Path) -> dict[str, Any]:
    """The description, read strictly: every byte is what we would have written, or an error."""
    data = read_file(path.resolve())
    try:
        stored = json.loads(data)
        if stored["format"] != FORMAT or _encode(stored) != data:
            raise ValueError
        if stored["format_version"] != FORMAT_VERSION:
            raise BackboneError(
                f"{path}: format version {stored['format_version']} is not known here (only {FORMAT_VERSION}); "
                "update msdino_monai."
            )
        parts = stored["body"], stored["embedder"], stored["files"], stored["tensors_sha256"], stored["signature"]
        if [type(part) for part in parts[:4]] != [dict, dict, dict, str]:
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BackboneError(
            f"{path} was altered or describes no backbone; ask the coordinator for it again, or move it away."
        ) from None
    return dict(stored)


def _refuse_other_file(description: Mapping[str, Any], path: Path, data: bytes) -> None:
    files, name = description["files"], path.with_suffix(".json").name
    if path.name not in files:
        raise BackboneError(f"{name} speaks of {', '.join(files)}, not of {path.name}; keep the names they came with.")
    expected, found = files[path.name], {"sha256": _sha256(data), "bytes": len(data)}
    if found != expected:
        raise BackboneError(
            f"{path} is not the file {name} describes (found {found}, expected {expected}); copy both again, "
            "or ask the coordinator for them."
        )


def _load_public(encoder: ImageEncoder, backbone: Backbone, normalisation: Normalisation) -> Backbone:
    embedding, source = encoder.embedding, backbone.path.name
    grid = embedding.img_size // embedding.patch_size
    try:
        state, sizes = from_public_checkpoint(backbone.state, grid=grid, normalisation=normalisation)
    except UserError as error:
        raise BackboneError(f"{backbone.path}: {error}") from error
    positions = encoder.body.positions
    ours = {
        "patch_size": embedding.patch_size,
        **body_sizes(encoder.body),
        "num_positions": 0 if positions is None else positions.shape[1],
        "margin": embedding.margin,
        "position_scale": embedding.position_scale,
    }
    lines = differences(ours, {**sizes, "margin": 0, "position_scale": 0}, source)
    lines = lines or state_difference(encoder.state_dict(), state, source)
    if lines:
        raise BackboneError(_listed(f"{backbone.path} is a published ViT of other sizes; choose its settings:", lines))
    encoder.load_state_dict(state)
    embedding.origin = {"checkpoint": "ViT"}
    return replace(backbone, state=state)


def _fitted(positions: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Position codes at the grid of the expected ones, if both grids are square; else as they are."""
    counts = count_tokens(positions), count_tokens(expected)
    if all(count and math.isqrt(count) ** 2 == count for count in counts):
        return resize_positions(positions.float(), math.isqrt(counts[1]))
    return positions


def _hidden_differences(encoder: ImageEncoder, backbone: Backbone, taken: bool) -> list[str]:
    """What no shape shows: the number of heads, what a patch embedding that is taken over adds, positions left out."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    if _POSITIONS in backbone.state and encoder.body.positions is None:
        ours["num_positions"], theirs["num_positions"] = 0, count_tokens(backbone.state[_POSITIONS])
    if backbone.description is not None:
        ours["num_heads"] = body_sizes(encoder.body)["num_heads"]
        theirs["num_heads"] = backbone.description["body"].get("num_heads")
        if taken:
            ours["position_scale"] = encoder.embedding.position_scale
            theirs["position_scale"] = backbone.description["embedder"].get("position_scale")
    return differences(ours, theirs, backbone.path.name)


def _refuse_other_embedder(backbone: Backbone, embedding: PatchEmbedding) -> None:
    """Compare whole descriptions, at the image size of the backbone's training, and the weights if they are there."""
    weight, source = backbone.state.get(_EMBEDDER), backbone.path.name
    lines: list[str] = []
    if backbone.description is not None:
        theirs = backbone.description["embedder"]
        ours = _described_for(embedding, theirs.get("num_tokens"))
        if ours["sha256"] != theirs.get("sha256"):
            lines = differences(ours, theirs, source)
    if not lines and weight is not None and not torch.equal(weight, embedding.weight.cpu()):
        lines = [f"{_EMBEDDER}: other numbers in {source} than here"]
    if lines:
        raise BackboneError(
            _listed(f"{backbone.path} was trained with another patch embedding; set up the one it names:", lines)
        )


def _described_for(embedding: PatchEmbedding, num_tokens: Any) -> dict[str, Any]:
    """The description of the same embedding for images of this many patches: its hash must not depend on ours."""
    same = copy.copy(embedding)
    if isinstance(num_tokens, int) and num_tokens > 0:
        same.img_size = math.isqrt(num_tokens) * embedding.patch_size
    return same.describe()


def _name_embedder(embedding: PatchEmbedding, described: Mapping[str, Any]) -> None:
    """Say where weights came from that were taken over."""
    embedding.margin = described.get("margin", embedding.margin)
    embedding.origin = {name: described[name] for name in ("seed", "checkpoint") if name in described}


def _listed(head: str, lines: list[str]) -> str:
    return "\n  ".join([head, *lines])
