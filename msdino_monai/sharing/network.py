"""Checks of a bundle's network: shapes, TorchScript, ONNX, and that all of them give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import verify_net_in_out

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.export import ONNX, TORCHSCRIPT, export_onnx, export_torchscript
from msdino_monai.sharing.outcome import LeftOut
from msdino_monai.sharing.shape import check_shape
from msdino_monai.sharing.weight import network_of, read_weights

_TOLERANCE = 1e-3  # of the largest number that comes out
_SEVERAL = 3


def check_net_in_out(bundle: Bundle) -> str:
    """The network takes and gives what the metadata says."""
    check_shape(bundle)
    arguments: dict[str, Any] = dict(bundle.monai_files())
    verify_net_in_out(net_id="network_def", device="cpu", **arguments)
    taken, given = _example(bundle).shape[1:], expected(bundle).shape[1:]
    return f"image ({', '.join(map(str, taken))}) to pred ({', '.join(map(str, given))})"


def check_torchscript(bundle: Bundle, scratch: Path) -> str:
    """What `ckpt_export` writes loads, and gives what the network gives."""
    path = scratch / TORCHSCRIPT
    export_torchscript(bundle, path)
    return _also_packed(bundle, path, lambda each: _run_torchscript(bundle, each))


def _also_packed(bundle: Bundle, path: Path, check: Callable[[Path], str]) -> str:
    """What a check says of an export made here, and of the one that came with the bundle: others run that one."""
    packed = bundle.model.with_name(path.name)
    return check(path) + (f"; the packed one: {check(packed)}" if packed.is_file() else "")


def _run_torchscript(bundle: Bundle, path: Path) -> str:
    extra = {"metadata.json": "", "inference.json": ""}
    script = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    if not all(extra.values()):
        raise UserError("model.ts holds no metadata.json or inference.json; is configs/inference.json there?")
    with torch.no_grad():
        return _compared(script(_example(bundle)).numpy(), bundle)


def check_onnx(bundle: Bundle, scratch: Path) -> str:
    """onnxruntime gives what the network gives, for one image and for several at once."""
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if absent:
        raise LeftOut(f"{', '.join(absent)} not installed")
    path = scratch / ONNX
    export_onnx(bundle, path)
    return _also_packed(bundle, path, lambda each: _run_onnx(bundle, each))


def _run_onnx(bundle: Bundle, path: Path) -> str:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    single, several = (
        _compared(session.run(None, {"image": _example(bundle, count).numpy()})[0], bundle, count)
        for count in (1, _SEVERAL)
    )
    return f"{single}; {_SEVERAL} images at once: {several}"


@lru_cache(maxsize=2)  # a large network takes its time, and three checks ask
def expected(bundle: Bundle, count: int = 1) -> torch.Tensor:
    """What the network itself says of the example."""
    network = network_of(bundle)
    network.load_state_dict(read_weights(bundle.model))
    with torch.no_grad():
        result: torch.Tensor = network(_example(bundle, count))
    return result


def _example(bundle: Bundle, count: int = 1) -> torch.Tensor:
    shape = (count, int(bundle.image["num_channels"]), *map(int, bundle.image["spatial_shape"]))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _compared(found: Any, bundle: Bundle, count: int = 1) -> str:
    wanted = expected(bundle, count).numpy()
    if found.shape != wanted.shape:
        raise UserError(f"the exported network gives {found.shape}, the network {wanted.shape}.")
    error, scale = float(np.abs(found - wanted).max()), max(1.0, float(np.abs(wanted).max()))
    if not error <= _TOLERANCE * scale:
        raise UserError(f"the exported network differs by {error:.1e} (numbers up to {scale:.1f}); do not ship it.")
    return f"max error {error:.1e}"
