"""The wheel of the package that is installed here, from its own files: no network, no build tools, the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import msdino_monai
from msdino_monai.errors import UserError
from msdino_monai.sharing.archive import write_content

_NAME = "msdino_monai"
_WHEEL = "Wheel-Version: 1.0\nGenerator: msdino_monai\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write `msdino_monai-<version>-py3-none-any.whl`; returns its path."""
    installed, version = _installed(), msdino_monai.__version__
    if installed.version != version:
        raise UserError(f"msdino_monai {installed.version} was installed, {version} is here; install it again.")
    content = {**dict(_package_files()), **_about(installed, f"{_NAME}-{version}.dist-info")}
    record = f"{_NAME}-{version}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    path = folder / f"{_NAME}-{version}-py3-none-any.whl"
    write_content(path, content)
    return path


def _package_files() -> Iterator[tuple[str, bytes]]:
    root = Path(str(msdino_monai.__file__)).parent
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root.parent).as_posix()
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in name.split("/")):
            yield name, path.read_bytes()


def _installed() -> Distribution:
    """What pip installed; an `egg-info` of a checkout that a program was started in has another form."""
    found = [each for each in distributions(name=_NAME) if each.read_text("METADATA")]
    if not found:
        raise UserError("msdino_monai was not installed by pip, so nothing says what it needs; install it.")
    return found[0]


def _about(installed: Distribution, folder: str) -> dict[str, bytes]:
    """What pip reads: dependencies and extras as they were when this package was installed, and the licence."""
    content = {
        f"{folder}/METADATA": (installed.read_text("METADATA") or "").encode(),
        f"{folder}/WHEEL": _WHEEL.encode(),
    }
    for path in sorted(map(str, installed.files or [])):
        if ".dist-info/licenses/" in path:
            licence = Path(str(installed.locate_file(path))).read_bytes()
            content[f"{folder}/licenses/{path.partition('/licenses/')[2]}"] = licence
    return content


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
