"""A bundle's network in the forms others run: TorchScript, ONNX, safetensors; the same input gives the same bytes.

`python -m msdino_monai.sharing.export <bundle>` adds them to the bundle's `models`.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
from monai.bundle import ckpt_export, onnx_export

from msdino_monai.finetuning.description import load_network
from msdino_monai.sharing.archive import write_aligned
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.weight import network_of, read_weights

TORCHSCRIPT, ONNX, SAFETENSORS = "model.ts", "model.onnx", "model.safetensors"
_SERIALIZATION_ID = "/.data/serialization_id"
_BATCH = {0: "batch"}


def export_torchscript(bundle: Bundle, path: Path) -> None:
    """MONAI's archive with metadata and inference configuration inside, without the exporter's source paths."""
    arguments: dict[str, Any] = {"ckpt_file": str(bundle.model), **bundle.monai_files()}
    ckpt_export(net_id="network_def", filepath=str(path), device="cpu", **arguments)
    with zipfile.ZipFile(path) as archive:
        # What torch prints beside an error, with the paths of this machine's sources.
        content = {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith(".debug_pkl")}
    write_aligned(path, _with_own_id(content))


def export_onnx(bundle: Bundle, path: Path) -> None:
    """MONAI's export for any number of images at once, without the stack traces the exporter notes at every node."""
    import onnx

    arguments: dict[str, Any] = {"ckpt_file": str(bundle.model), **bundle.monai_files()}
    options = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": {"image": _BATCH, "pred": _BATCH}}
    onnx_export(net_id="network_def", filepath=str(path), device="cpu", converter_kwargs=options, **arguments)
    model = onnx.load(str(path))
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def export_safetensors(bundle: Bundle, path: Path) -> None:
    state = {name: tensor.contiguous().clone() for name, tensor in sorted(read_weights(bundle.model).items())}
    path.write_bytes(safetensors.torch.save(state))


def _with_own_id(content: dict[str, bytes]) -> dict[str, bytes]:
    """torch derives an archive's id from all it wrote, those paths included; ours is derived from what is left."""
    kept = {name: data for name, data in content.items() if not name.endswith(_SERIALIZATION_ID)}
    digest = hashlib.sha256()
    for name, data in kept.items():
        digest.update(f"{name} {len(data)} ".encode() + data)
    own = str(int(digest.hexdigest(), 16))[:40].zfill(40).encode()  # decimal digits, as torch writes them
    return {name: kept.get(name, own) for name in content}


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
    load_network(network_of(bundle), bundle.model)  # MONAI's exporter would pass over what does not fit
    folder = bundle.model.parent
    export_torchscript(bundle, folder / TORCHSCRIPT)
    export_onnx(bundle, folder / ONNX)
    if not (folder / SAFETENSORS).exists():  # a backbone has its own, signed together with model.pt
        export_safetensors(bundle, folder / SAFETENSORS)


if __name__ == "__main__":
    main(sys.argv[1])
