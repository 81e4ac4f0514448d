"""One server for all tests, with bundles that were trained for a moment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from label_bundle import LABEL_BUNDLES

BUNDLES = Path(__file__).parents[2] / "bundles"
if find_spec("monailabel"):
    from label_server import LabelServer
    from label_workshop import Workshop, finished, run_bundle
else:
    collect_ignore_glob = ["test_*.py"]  # `make test` has no MONAI Label: it wants older packages


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Shows the server's log with whatever failed."""
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and server is not None:
        report.sections.append(("MONAI Label's log", server.tail()))
    return report


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def server(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    """The bundles as they lie in the repository, each with a model of a few epochs, in the `monaibundle` app."""
    folder = tmp_path_factory.mktemp("label")
    server = LabelServer(folder, [bundle.name for bundle in LABEL_BUNDLES])
    server.fetch_app()
    trainings = []
    for bundle in LABEL_BUNDLES:
        output = folder / bundle.name
        settings = {"dataset_dir": workshop.data(bundle), "output_dir": output, **bundle.training}
        trainings.append(run_bundle(BUNDLES / bundle.name, "train.json", folder, **settings))
    for bundle, training in zip(LABEL_BUNDLES, trainings, strict=True):
        finished(training)
        # What a user copies: configurations and documents, never what a run here may have left.
        placed = server.bundle(bundle.name)
        for part in ("configs", "docs"):
            shutil.copytree(BUNDLES / bundle.name / part, placed / part)
        shutil.copytree(folder / bundle.name / "models", placed / "models")
    try:
        server.start()
        yield server
    finally:
        server.stop()
