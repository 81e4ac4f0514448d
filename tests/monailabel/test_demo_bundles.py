"""The bundles of the demo that was walked here, as they are, in a server of their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from label_bundle import LABEL_BUNDLES
from label_server import LabelServer
from label_workshop import Workshop
from test_monai_label import volume_of

DEMO = Path(__file__).parents[2] / "demo" / "bundles"


@pytest.mark.skipif("CI" not in os.environ or not DEMO.is_dir(), reason="CI walks a demo before the tests")
def test_bundles_of_the_demo_answer(workshop: Workshop, tmp_path: Path) -> None:
    server = LabelServer(tmp_path, [bundle.name for bundle in LABEL_BUNDLES])
    server.fetch_app()
    for bundle in LABEL_BUNDLES:
        shutil.copytree(DEMO / bundle.name, server.bundle(bundle.name))
    try:
        server.start()
        for bundle in LABEL_BUNDLES:
            file = workshop.files(bundle)[0]
            if bundle.masks:
                mask = volume_of(server.infer(bundle.name, file, "image", result_extension=".nii.gz"))
                assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
                assert mask.shape[0] > 1 < mask.shape[1]
            else:
                answer = server.infer(bundle.name, file, "json").json()["prediction"]
                assert len(answer) == 6
                assert all(0 <= each["score"] <= 1 for each in answer)
    finally:
        server.stop()
