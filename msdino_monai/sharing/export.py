"""A bundle's network in the forms others run: TorchScript, ONNX, safetensors; the same input gives the same bytes.

`python -m msdino_monai.sharing.export <bundle>` adds them to the bundle's `models`.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
from monai.bundle import ckpt_export, onnx_export

from msdino_monai.sharing.archive import write_aligned
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.weight import read_weights

TORCHSCRIPT, ONNX, SAFETENSORS = "model.ts", "model.onnx", "model.safetensors"


def export_torchscript(bundle: Bundle, path: Path) -> None:
    """MONAI's archive with metadata and inference configuration inside, without the exporter's source paths."""
    arguments: dict[str, Any] = {"ckpt_file": str(bundle.model), **bundle.monai_files()}
    ckpt_export(net_id="network_def", filepath=str(path), device="cpu", **arguments)
    with zipfile.ZipFile(path) as archive:
        # What torch prints beside an error, with the paths of this machine's sources.
        content = {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith(".debug_pkl")}
    write_aligned(path, content)


def export_onnx(bundle: Bundle, path: Path) -> None:
    """MONAI's export, without the stack traces the exporter notes at every node."""
    import onnx

    arguments: dict[str, Any] = {"ckpt_file": str(bundle.model), **bundle.monai_files()}
    onnx_export(net_id="network_def", filepath=str(path), device="cpu", **arguments)
    model = onnx.load(str(path))
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def export_safetensors(bundle: Bundle, path: Path) -> None:
    state = {name: tensor.contiguous().clone() for name, tensor in sorted(read_weights(bundle.model).items())}
    path.write_bytes(safetensors.torch.save(state))


def _strip(message: Any) -> None:
    """Clear documentation and metadata, all the way down."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for each in [value] if hasattr(value, "ListFields") else value:
                _strip(each)


def main(root: str) -> None:
    bundle = Bundle(root)
    folder = bundle.model.parent
    export_torchscript(bundle, folder / TORCHSCRIPT)
    export_onnx(bundle, folder / ONNX)
    if not (folder / SAFETENSORS).exists():  # a backbone has its own, signed together with model.pt
        export_safetensors(bundle, folder / SAFETENSORS)


if __name__ == "__main__":
    main(sys.argv[1])
