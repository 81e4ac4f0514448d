"""Data and files for the tests, and what the bundles' own command makes of them."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from label_bundle import LabelBundle
from label_server import clean_environment


def run_bundle(bundle: Path, config: str, folder: Path, **settings: Any) -> subprocess.Popen[str]:
    """The command a user types, started; `finished` waits for it."""
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / config)]
    return subprocess.Popen(
        [*start, "--bundle_root", str(bundle), *flags],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


class Workshop:
    """Data, files to be inferred, and what `monai.bundle run` says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = cache(self._data)
        self.files = cache(self._files)

    def _data(self, bundle: LabelBundle) -> Path:
        return _made(bundle.make_data, self.folder)

    def _files(self, bundle: LabelBundle) -> tuple[Path, ...]:
        folder = self.folder / f"{bundle.name}_files"
        folder.mkdir()
        bundle.make_files(self.data(bundle), folder)
        return tuple(sorted(folder.iterdir()))

    def expected(self, bundle: LabelBundle, placed: Path, name: str) -> Path:
        """Where the command has written its results for the files, with the weights that lie in the bundle now."""
        output = self.folder / f"{bundle.name}_{name}"
        settings = {"dataset_dir": self.files(bundle)[0].parent, "num_workers": 0, **bundle.settings}
        finished(run_bundle(placed, "inference.json", self.folder, output_dir=output, **settings))
        return output


@cache
def _made(make: Any, folder: Path) -> Path:
    """Bundles may share their data."""
    place = folder / make.__name__
    place.mkdir()
    return Path(make(place))
