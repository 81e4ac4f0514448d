"""Checks of what a bundle says of itself: files, version, schema, README, licence, pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import verify_metadata

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import METADATA, Bundle
from msdino_monai.sharing.manifest import MANIFEST_FILE, read_manifest
from msdino_monai.sharing.outcome import LeftOut

_REQUIRED = (METADATA, "configs/inference.json", "docs/README.md", "LICENSE")
_EXPECTED = (
    *("LICENSE", "LICENSE.*", "README.md", "large_files.yml", "large_files.yaml", "large_files.json"),
    *("configs/*.json", "configs/*.yaml", "configs/*.yml", "configs/*.conf", "configs/*.cfg"),
    *("docs/*.md", "docs/*.txt", "docs/*.png", "docs/*.jpg", "docs/*.jpeg", "docs/*.svg", "docs/*.json"),
)
_WEIGHTS = (".pt", ".ts", ".onnx", ".safetensors", ".json")
_OUTLINE = {
    "a title": r"\A\s*# +\S",
    "what it is": r"\A\s*# .*\n+(?!#)[^\n]{20,}",
    "data": r"(?im)^#+ .*\bdata\b",
    "commands": r"python3? -m monai\.bundle|torchrun",
    "limits": r"(?im)^#+ .*(limit|intended use)|not a medical device",
    "licence": r"(?im)^#+ .*licen[sc]e",
}
_NAME, _PIN = re.compile(r"[A-Za-z0-9][\w.-]*"), re.compile(r"(==|>=)?\d[\w.+!]*")
_LICENCES = r"Apache License|MIT License|BSD|GNU|Creative Commons|Mozilla Public"


def check_required(bundle: Bundle) -> None:
    """The files without which nothing is a bundle."""
    missing = [name for name in _REQUIRED if not (bundle.root / name).is_file()]
    if missing:
        raise UserError(f"missing: {', '.join(missing)}; add them.")


def check_files(bundle: Bundle, weights_may_lie_here: bool = False) -> str:
    """Everything the zoo asks for is there, and nothing that nobody would expect.

    The zoo hosts weights elsewhere: in a folder they are expected where `large_files.yml` or a manifest names them.
    """
    check_required(bundle)
    named = _named_elsewhere(bundle)
    found = sorted(path for path in bundle.root.rglob("*") if path.is_symlink() or not path.is_dir())
    links = [path for path in found if path.is_symlink()]
    if links:
        raise UserError(f"{_listed(bundle, links)}: links; put the files themselves there.")
    unexpected = [path for path in found if not _is_expected(path.relative_to(bundle.root).as_posix(), named)]
    weights = [path for path in unexpected if path.parent == bundle.model.parent and path.suffix in _WEIGHTS]
    others = [path for path in unexpected if path not in weights]
    if others:
        raise UserError(f"{_listed(bundle, others)}: unexpected in a bundle; move them away.")
    if weights and not weights_may_lie_here:
        advice = "host them and name them there, or make a package with `pack`"
        raise UserError(f"{_listed(bundle, weights)}: not named in large_files.yml; {advice}.")
    return f"{len(found)} files"


def check_version(bundle: Bundle) -> str:
    """The version is one, stands in the changelog, and was not given to the collection before."""
    changelog = bundle.metadata.get("changelog")
    if not re.fullmatch(r"\d+\.\d+\.\d+", bundle.version):
        raise UserError(f"version {bundle.version!r} in metadata.json is not of the form 1.2.3; correct it.")
    if not isinstance(changelog, dict) or bundle.version not in changelog:
        raise UserError(f"version {bundle.version} is not in metadata.json's changelog; say there what is new.")
    info = bundle.root.parent / "model_info.json"
    if info.is_file() and f'"{bundle.name}_v{bundle.version}"' in info.read_text(encoding="utf-8"):
        raise UserError(f"{bundle.name} {bundle.version} stands in model_info.json already; raise the version.")
    return bundle.version


def check_schema(bundle: Bundle, schema: str | None, scratch: Path) -> str:
    """The metadata follows MONAI's schema: a copy of it, or the one at the address the metadata names."""
    if find_spec("jsonschema") is None:
        raise LeftOut("jsonschema is not installed")
    schema = schema or os.environ.get("MONAI_SCHEMA")
    target = scratch / "schema.json"
    if schema:
        source = Path(schema).expanduser()
        if not source.is_file():
            raise UserError(f"there is no schema {source}; correct --schema or MONAI_SCHEMA.")
        shutil.copy(source, target)  # MONAI downloads only what is not there
    try:
        verify_metadata(meta_file=str(bundle.root / METADATA), filepath=str(target))
    except OSError as error:
        raise UserError(f"the schema cannot be downloaded ({error}); give a copy of it with --schema.") from error
    return Path(schema).name if schema else str(bundle.metadata["schema"])


def check_readme(bundle: Bundle) -> str:
    """The README says what a user must know before the first run."""
    text = _text(bundle, "docs/README.md")
    missing = [what for what, pattern in _OUTLINE.items() if not re.search(pattern, text)]
    if missing:
        raise UserError(f"docs/README.md lacks {', '.join(missing)}; write it.")
    return ", ".join(_OUTLINE)


def check_licence(bundle: Bundle) -> str:
    """There is a known licence, and somebody who grants it."""
    match = re.search(_LICENCES, _text(bundle, "LICENSE"))
    if match is None:
        raise UserError("LICENSE holds no licence that is known here; put the whole text of one there.")
    if not str(bundle.metadata.get("copyright", "")).strip():
        raise UserError("metadata.json names no copyright; add it.")
    return match[0]


def check_pins(bundle: Bundle) -> str:
    """Every required package is installed in the version asked for, or can be."""
    pins = bundle.metadata.get("required_packages_version", {})
    if not isinstance(pins, dict):
        raise UserError("required_packages_version in metadata.json must be an object; correct it.")
    for name, pin in pins.items():
        # pip would take an address for a package, and run what lies there.
        if not _NAME.fullmatch(name) or not _PIN.fullmatch(str(pin)):
            advice = "write a package's name and 1.2.3 or >=1.2.3"
            raise UserError(f"required_packages_version in metadata.json has {name!r}: {pin!r}; {advice}.")
    missing = [f"{name}=={pin}" for name, pin in pins.items() if not _is_met(name, str(pin))]
    for requirement in missing:
        _try_to_install(requirement.replace("==>=", ">=").replace("====", "=="))
    others = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
    differ = [
        f"{package} {_installed(package)} here, {bundle.metadata[field]} there"
        for field, package in others.items()
        if field in bundle.metadata and not _is_met(package, str(bundle.metadata[field]))
    ]
    return "; ".join([f"{len(pins)} pins", *(f"{pin} not installed but to be had" for pin in missing), *differ])


def _text(bundle: Bundle, name: str) -> str:
    try:
        return (bundle.root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{name} is missing; add it.") from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is not written in UTF-8; save it as such.") from None


def _listed(bundle: Bundle, paths: list[Path]) -> str:
    names = [path.relative_to(bundle.root).as_posix() for path in paths]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _is_expected(name: str, named: set[str]) -> bool:
    return name in named or any(fnmatch(name, each) and name.count("/") == each.count("/") for each in _EXPECTED)


def _named_elsewhere(bundle: Bundle) -> set[str]:
    """Files that `large_files` or a package's manifest name."""
    names: set[str] = set()
    for path in bundle.root.glob("large_files.*"):
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            names |= {str(entry["path"]) for entry in (content or {}).get("large_files", [])}
        except (yaml.YAMLError, AttributeError, KeyError, TypeError):
            raise UserError(f"{path.name} must hold large_files, a list with a path in each; mend it.") from None
    if (bundle.root / MANIFEST_FILE).is_file():
        manifest = read_manifest((bundle.root / MANIFEST_FILE).read_bytes(), MANIFEST_FILE)
        names |= {MANIFEST_FILE, *(entry.file for entry in manifest.files)}
    return names


def _installed(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "none"


def _is_met(package: str, pin: str) -> bool:
    """`1.2.3` asks for just that, `>=1.2.3` for that or a newer one."""
    found = _installed(package)
    if not pin.startswith(">="):
        return found == pin.removeprefix("==")
    return found != "none" and _numbers(found) >= _numbers(pin)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _try_to_install(requirement: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", requirement]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- pip, for one package
    if ended.returncode != 0:
        raise UserError(f"{requirement} cannot be installed; correct required_packages_version in metadata.json.")
