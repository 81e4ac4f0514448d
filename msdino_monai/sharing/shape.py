"""What weights take and give, where they were trained on other sizes or classes than the bundle's metadata says."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import Any

import torch

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.outcome import reason_of
from msdino_monai.sharing.weight import network_of


def fit_metadata(bundle: Bundle) -> Bundle:
    """The bundle with metadata that says what its weights take and give; says so where it was changed."""
    said = bundle.metadata["network_data_format"]
    try:
        true = _true_format(bundle)
    except Exception as error:  # whatever a configuration's code, or MONAI around it, raises
        reason = reason_of(error).rstrip(".").replace(str(bundle.root), bundle.name)
        raise UserError(f"{bundle.name} does not start: {reason}; `verify` says more.") from error
    if said == true:
        return bundle
    print(f"{bundle.name}: metadata.json is made to say what the weights do: {_told(true)} (it said {_told(said)})")
    content = {**bundle.metadata, "network_data_format": true}
    bundle.config_file("metadata").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    return Bundle(bundle.root)


def check_shape(bundle: Bundle) -> None:
    """Refuse metadata that is of other weights."""
    said, true = bundle.metadata["network_data_format"], _true_format(bundle)
    if said != true:
        advice = "correct network_data_format, or make a package: `pack` corrects it there"
        raise UserError(f"metadata.json says {_told(said)}, the weights {_told(true)}; {advice}.")


def _true_format(bundle: Bundle) -> dict[str, Any]:
    """`network_data_format` as the weights have it."""
    content = deepcopy(dict(bundle.metadata["network_data_format"]))
    image, pred = content["inputs"]["image"], content.get("outputs", {}).get("pred")
    if pred is None:
        raise UserError(f"{bundle.name}: metadata.json has no network_data_format#outputs#pred; add it.")
    about = _description(bundle)
    image["spatial_shape"] = _seen(about) or image["spatial_shape"]
    with torch.no_grad():
        found = network_of(bundle)(torch.zeros(1, int(image["num_channels"]), *map(int, image["spatial_shape"])))
    pred["num_channels"], pred["spatial_shape"] = found.shape[1], list(found.shape[2:])
    if "classes" in about:
        background = ["background"] * (found.shape[1] - len(about["classes"]))
        pred["channel_def"] = {str(index): name for index, name in enumerate([*background, *about["classes"]])}
    return content


def _description(bundle: Bundle) -> dict[str, Any]:
    """What lies beside the weights and says what they are."""
    for name in ("model.network.json", "model.json"):
        path = bundle.model.with_name(name)
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _seen(about: dict[str, Any]) -> list[int] | None:
    """Height, width and, of volumes, slices; none where the description says nothing."""
    network, embedder = about.get("network", {}), about.get("embedder")
    if embedder:
        return [embedder["patch_size"] * math.isqrt(embedder["num_tokens"])] * 2
    if "image_size" in network:
        return [network["image_size"]] * 2 + [network["num_slices"]]
    return [network["img_size"]] * 2 if "img_size" in network else None


def _told(content: dict[str, Any]) -> str:
    image, pred = content["inputs"]["image"], content["outputs"]["pred"]
    names = [str(name) for name in pred.get("channel_def", {}).values()]
    shown = f": {', '.join(names)}" if names else ""
    return f"{' x '.join(map(str, image['spatial_shape']))} in, {pred['num_channels']} channels out{shown}"
