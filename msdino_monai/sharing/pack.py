"""The verb `pack`: a bundle with its network in every form, the package it needs, and hashes of it all."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.sharing import document
from msdino_monai.sharing.archive import write_folder
from msdino_monai.sharing.bundle import RUN_OUTPUT, Bundle
from msdino_monai.sharing.card import METRICS, model_card
from msdino_monai.sharing.environment import WHEELS
from msdino_monai.sharing.hub import check_hub, push
from msdino_monai.sharing.manifest import MANIFEST_FILE, FileEntry, PackageManifest
from msdino_monai.sharing.page import bring_pages
from msdino_monai.sharing.shape import fit_metadata
from msdino_monai.sharing.trace import refuse_own_paths
from msdino_monai.sharing.weight import check_weights, draw_weights
from msdino_monai.sharing.wheel import write_wheel
from msdino_monai.vault.atomic import hash_file, make_folder
from msdino_monai.vault.signing import SigningKey, read_signing_key

_TOOLS = ("monai", "torch", "onnx", "onnxscript", "safetensors")


def pack(
    *bundles: str, output_dir: str = "dist", signing_key: str | None = None, push_to_hf: str | None = None
) -> None:
    """Make `<name>_v<version>.zip` of each bundle: all that is needed to run it where this repository is not.

    Inside: configuration, documents, licence, the weights as .pt, .ts (with metadata and configuration), .onnx and
    .safetensors, a model card, the msdino_monai wheel, and a manifest with the sha256 of every file. The same input
    gives the same bytes. The wheel lies beside the package as well.

    --output_dir   where packages go; made if absent
    --signing_key  a _signing_key.txt made by `keygen`; the manifest is signed with it
    --push_to_hf   owner/repository on the Hugging Face Hub, made private if it is new
    """
    if not bundles:
        raise UserError("name at least one bundle: python -m msdino_monai pack bundles/<name>")
    if push_to_hf is not None:
        if len(bundles) > 1:
            raise UserError("--push_to_hf takes one bundle: a repository on the Hub holds one; push them one by one.")
        check_hub(push_to_hf)
    if not output_dir.strip():
        raise UserError("--output_dir is empty; name a folder for the packages.")
    key = None if signing_key is None else read_signing_key(signing_key)
    target = Path(output_dir).expanduser().resolve()
    found = [Bundle(name) for name in bundles]
    for bundle in found:
        if target.is_relative_to(bundle.root):
            raise UserError(f"output_dir {target} lies in the bundle, where it would be packed; name another.")
    for bundle in found:
        _pack(bundle, target, key, push_to_hf)


def _pack(bundle: Bundle, target: Path, key: SigningKey | None, repository: str | None) -> None:
    document.check_required(bundle)
    _ = bundle.config("inference"), bundle.image  # refused here, where the reason is clear
    for check in (document.check_version, document.check_readme, document.check_licence):
        check(bundle)
    with tempfile.TemporaryDirectory(prefix="pack-") as folder:
        scratch = Path(folder).resolve()
        work = staged_copy(bundle, scratch)
        _export(work)
        wheel = write_wheel(_made(work.root / WHEELS))
        refuse_own_paths(work.root, [bundle.root, scratch])
        files = sorted(path.relative_to(work.root).as_posix() for path in work.root.rglob("*") if path.is_file())
        manifest = _manifest(work, files).signed(key)
        (work.root / MANIFEST_FILE).write_bytes(manifest.encode())
        make_folder(target)
        package = target / f"{bundle.name}_v{bundle.version}.zip"
        half = package.with_suffix(".zip.tmp")
        try:
            write_folder(half, work.root, [*files, MANIFEST_FILE], bundle.name)
            half.replace(package)
        finally:
            half.unlink(missing_ok=True)
        shutil.copy(wheel, target)
        signed = "not signed" if key is None else f"signed by {key.public}"
        print(f"{package}: {len(files)} files, {package.stat().st_size:,} bytes, {signed}, sha256 {hash_file(package)}")
        if repository is not None:
            print(f"pushed to {push(work, repository)}")


def staged_copy(bundle: Bundle, scratch: Path) -> Bundle:
    """A copy with usable weights and a model card, and nothing that nobody ships."""
    if not bundle.model.is_file() and bundle.needs_weights:
        places = shlex.quote(str(bundle.config_file("train"))), shlex.quote(str(bundle.root))
        train = "python -m monai.bundle run --config_file {} --bundle_root {}".format(*places)
        raise UserError(f"there is nothing to pack: {bundle.model} is missing; train it: {train} --dataset_dir <data>")
    if bundle.model.exists():
        check_weights(bundle)  # not the copy's: a message names the user's file
    work = bundle.copy(scratch, leave_out=(*RUN_OUTPUT, "*.ts", "*.onnx", WHEELS, MANIFEST_FILE, "model_card.md"))
    origin = "As trained"
    if not work.model.is_file():
        draw_weights(work)
        origin = "Drawn from a seed by the configuration, the same on every machine"
    else:
        work = fit_metadata(work)
    document.check_files(work, weights_may_lie_here=True)
    bring_pages(bundle, work)
    if (bundle.root / METRICS).is_file():
        shutil.copy(bundle.root / METRICS, _made(work.root / "eval"))
    card = model_card(work, origin)
    shutil.rmtree(work.root / "eval", ignore_errors=True)
    (work.root / "docs" / "model_card.md").write_text(card, encoding="utf-8")
    return work


def _export(work: Bundle) -> None:
    """In a process of its own, because TorchScript shows what a process compiled before, and the order of its sets."""
    if find_spec("onnxscript") is None or find_spec("onnx") is None:
        raise UserError("model.onnx needs onnx and onnxscript: pip install msdino-monai[onnx]")
    command = [sys.executable, "-m", "msdino_monai.sharing.export", str(work.root)]
    ended = subprocess.run(  # noqa: S603 -- ourselves
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"}
    )
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1].replace(str(work.root), work.name)
        reason = last.removeprefix("msdino_monai.errors.UserError: ").rstrip(".")
        raise UserError(f"{work.name} does not export: {reason}; `verify` says more.")


def _manifest(work: Bundle, files: list[str]) -> PackageManifest:
    entries = [FileEntry(name, (work.root / name).stat().st_size, hash_file(work.root / name)) for name in files]
    tools = {"msdino_monai": version("msdino_monai"), **{name: version(name) for name in _TOOLS}}
    return PackageManifest(work.name, work.version, tuple(entries), tools)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
