"""MONAI Deploy runs a bundle from its TorchScript archive alone; here are the steps of its inference operator."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import MapTransform

from msdino_monai.images.cohort import write_cohort
from msdino_monai.sharing.archive import unpack

NOT_IN_DEPLOY = ("LoadImage", "SaveImage")  # its operators hand pixels over


def parser_of(archive_path: Path) -> ConfigParser:
    """Metadata and configuration from the archive's `extra` folder, below the archive's own name."""
    parser, name = ConfigParser(), archive_path.stem
    with zipfile.ZipFile(archive_path) as archive, tempfile.TemporaryDirectory() as folder:
        parser.read_meta(f=json.loads(archive.read(f"{name}/extra/metadata.json")))
        archive.extract(f"{name}/extra/inference.json", folder)
        parser.read_config([Path(folder) / name / "extra" / "inference.json"])
    parser.parse()
    return parser


def test_archive_alone_gives_what_the_bundle_gives(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = unpack(package, tmp_path / "unpacked")
    write_cohort(str(tmp_path / "cohort"), sites=1, patients_per_site=1, image_size=64)
    images = tmp_path / "cohort" / "site_a" / "images"
    image = sorted(images.iterdir())[0]

    # An application's working folder is the package; the weights come from the archive.
    (root / "models" / "model.pt").unlink()
    monkeypatch.chdir(root)
    parser = parser_of(root / "models" / "model.ts")
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    transforms = {}
    for name in ("preprocessing", "postprocessing"):
        compose = parser.get_parsed_content(name)
        kept = [each for each in compose.transforms if not any(no in type(each).__name__ for no in NOT_IN_DEPLOY)]
        assert isinstance(kept[0], MapTransform)
        compose.transforms = tuple(kept)
        transforms[name] = compose
    about = parser["_meta_"]["network_data_format"]
    assert (list(about["inputs"]), list(about["outputs"])) == (["image"], ["pred"])
    network = torch.jit.load(str(root / "models" / "model.ts"), map_location=device).eval()
    with torch.no_grad():
        inputs = transforms["preprocessing"]({"image": str(image)})
        first = inputs["image"]
        output = inferer(inputs=first[None].to(device), network=network)
        result = transforms["postprocessing"]({"pred": output[0], **inputs})

    other, _ = unpack(package, tmp_path / "again")
    flow = ConfigWorkflow(
        config_file=str(other / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(other),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "out"),
        num_workers=0,
    )
    for step in (flow.initialize, flow.run, flow.finalize):
        step()
    (entry,) = [
        each
        for each in json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
        if each["file"] == image.name
    ]
    expected = torch.tensor(list(entry["probabilities"].values()))
    torch.testing.assert_close(torch.as_tensor(result["pred"]).float(), expected.float(), atol=1e-5, rtol=0)
    assert float((expected - 0.5).abs().max()) > 1e-4  # not a network that says nothing
