"""The verb `verify`: every check the model zoo makes of a bundle, and the same of a package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from msdino_monai.errors import UserError
from msdino_monai.sharing import document, network, workflow
from msdino_monai.sharing.archive import check_unpacked, unpack
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.environment import verify_in_fresh_environment
from msdino_monai.sharing.manifest import MANIFEST_FILE, PackageManifest
from msdino_monai.sharing.outcome import FAIL, LEFT_OUT, PASS, Row, make_check, reason_of
from msdino_monai.sharing.sample import inference_data, training_data
from msdino_monai.sharing.weight import check_weights, draw_weights
from msdino_monai.vault.signing import read_public_key

Check = Callable[[], str]


def verify(
    *bundles: str,
    schema: str | None = None,
    trusted_key: str | None = None,
    fresh: bool = True,
    constraint: str | None = None,
) -> int:
    """Check bundles, or packages made by `pack`, as the model zoo does; status 1 if anything fails.

    A bundle is a folder, a package a .zip. Neither is changed. A bundle is code: verify runs what it says.

    --schema       a copy of MONAI's metadata schema (default: MONAI_SCHEMA; else it is downloaded)
    --trusted_key  ed25519:... or the file that holds it; packages must be signed with it
    --fresh        a .zip runs in a new virtual environment with MONAI and the packed wheel alone; false: in this one
    --constraint   a pip constraints file for that environment
    """
    if not bundles:
        raise UserError("name at least one bundle: python -m msdino_monai verify bundles/*/")
    if not all(name.strip() for name in bundles):
        raise UserError("the name of a bundle is empty; name its folder or its package.")
    if constraint is not None and not Path(constraint).expanduser().is_file():
        raise UserError(f"there is no file {constraint}; correct --constraint.")
    key = None if trusted_key is None else read_public_key(trusted_key)
    failed = [name for name in bundles if not _verify(Path(str(name)).expanduser(), schema, key, fresh, constraint)]
    done = len(bundles) - len(failed)
    print(f"{done} of {len(bundles)} without failure" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def _verify(path: Path, schema: str | None, key: str | None, fresh: bool, constraint: str | None) -> bool:
    """One bundle or package; prints its table row by row, because some checks take minutes."""
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        scratch = Path(folder).resolve()
        if path.suffix == ".zip" or path.is_file():
            print(f"{path.name} (package)")
            target: list[Path] = []
            row = make_check("hashes", lambda: _unpack(path, scratch / "package", key, target))
            print(row, flush=True)
            if row.outcome == FAIL:
                return False
            if fresh:
                row = make_check("schema", lambda: document.check_schema(Bundle(target[0]), schema, scratch))
                print(row, flush=True)  # here, because the packed wheel does not bring what it needs
                if row.outcome == FAIL:
                    return False
                try:
                    return verify_in_fresh_environment(target[0], scratch, key, constraint)
                except Exception as error:  # this package's failure, the others' turn comes
                    print(Row("fresh environment", FAIL, 0.0, reason_of(error)), flush=True)
                    return False
            return _verify_bundle(target[0], scratch, schema)
        if (path / MANIFEST_FILE).is_file():
            row = make_check("hashes", lambda: _described(check_unpacked(path, key), path, key))
            print(row, flush=True)
            return row.outcome != FAIL and _verify_bundle(path, scratch, schema)
        if key is not None:
            raise UserError(f"{path} is no package; --trusted_key is for those made by `pack`.")
        return _verify_bundle(path, scratch, schema)


def _unpack(path: Path, folder: Path, key: str | None, target: list[Path]) -> str:
    if not path.is_file():
        raise UserError(f"there is no package {path}; make one with `pack`.")
    root, manifest = unpack(path, folder, key)
    target.append(root)
    return _described(manifest, root, key)


def _described(manifest: PackageManifest, root: Path, key: str | None) -> str:
    if Bundle(root).version != manifest.version:
        raise UserError(f"the manifest is of version {manifest.version}, the bundle of another; do not use it.")
    signed = "not signed" if manifest.public_key is None else f"signed by {manifest.public_key}"
    unknown = manifest.public_key is not None and key is None
    return f"{len(manifest.files)} files as listed, {signed}" + (", whoever that is: give --trusted_key" * unknown)


def _verify_bundle(root: Path, scratch: Path, schema: str | None) -> bool:
    rows: list[Row] = []
    for row in _rows(root, scratch, schema):
        rows.append(row)
        print(row, flush=True)
    return all(row.outcome != FAIL for row in rows)


def _rows(root: Path, scratch: Path, schema: str | None) -> Iterator[Row]:
    opened: list[Bundle] = []

    def read_metadata() -> str:
        bundle = Bundle(root)
        opened.append(bundle)
        return f"{bundle.name} {bundle.version}, takes {bundle.image.get('type')}s of {bundle.image.get('modality')}"

    first = make_check("metadata", read_metadata)
    print(root.resolve().name)
    yield first
    if first.outcome == FAIL:
        return
    bundle = opened[0]
    documents: dict[str, Check] = {
        "files": lambda: document.check_files(bundle),
        "version": lambda: document.check_version(bundle),
        "schema": lambda: document.check_schema(bundle, schema, scratch),
        "README": lambda: document.check_readme(bundle),
        "licence": lambda: document.check_licence(bundle),
        "pins": lambda: document.check_pins(bundle),
    }
    for name, check in documents.items():
        yield make_check(name, check)
    copied: list[Bundle] = []

    def weights() -> str:
        copied.append(bundle.copy(scratch / "copy"))
        if bundle.model.exists():
            return check_weights(bundle)  # its own, so that a message names the user's file
        draw_weights(copied[0])
        return "weights: random"

    row = make_check("weights", weights)
    yield row
    for name, check in _runs(copied[0] if copied else bundle, scratch).items():
        if row.outcome == PASS:
            yield make_check(name, check)
        else:
            yield Row(name, LEFT_OUT, 0.0, "no usable weights")


def _runs(work: Bundle, scratch: Path) -> dict[str, Check]:
    """What needs a network and data; the data is made by the first check that asks for it."""
    made: dict[str, Path] = {}

    def data(kind: str) -> Path:
        if kind not in made:
            folder = scratch / f"{kind}_data"
            folder.mkdir()
            made[kind] = training_data(work, folder) if kind == "train" else inference_data(work, folder)
        return made[kind]

    def properties(kind: str) -> str:
        dataset_dir = data(kind) if work.has(kind) else scratch
        return workflow.check_properties(work, kind, dataset_dir, scratch / f"{kind}_properties")

    return {
        "net in/out": lambda: network.check_net_in_out(work),
        "train properties": lambda: properties("train"),
        "inference properties": lambda: properties("inference"),
        "TorchScript": lambda: network.check_torchscript(work, scratch),
        "ONNX": lambda: network.check_onnx(work, scratch),
        "run": lambda: workflow.check_run(work, data("inference"), scratch / "run" / "out"),
        "without weights": lambda: workflow.check_without_weights(work, data("inference"), scratch / "bare"),
    }
