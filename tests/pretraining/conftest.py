"""A small export, and runs that do not spend their time on drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretraining_runs import write_export

from msdino_monai.pretraining import curves


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two views."""
    return write_export(tmp_path_factory.mktemp("site") / "export")


@pytest.fixture
def _without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves takes ten times as long as a small training."""
    monkeypatch.setattr(curves, "as_picture", lambda _: b"not drawn")
