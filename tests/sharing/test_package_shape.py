from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_bundle_parts import CLASSES, change_metadata

from msdino_monai.errors import UserError
from msdino_monai.sharing.bundle import Bundle
from msdino_monai.sharing.network import check_net_in_out
from msdino_monai.sharing.pack import staged_copy
from msdino_monai.sharing.shape import fit_metadata


@pytest.fixture
def stale(bundle: Path, tmp_path: Path) -> Bundle:
    """Weights of a training with a size and classes of its own, in a bundle whose metadata stayed behind."""
    root = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    said = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]
    said["inputs"]["image"]["spatial_shape"] = [224, 224]
    said["outputs"]["pred"] |= {"num_channels": 2, "channel_def": {"0": "ill", "1": "well"}}
    change_metadata(root, network_data_format=said)
    return Bundle(root)


def test_verify_says_what_metadata_and_weights_say(stale: Bundle) -> None:
    with pytest.raises(
        UserError, match=r"says 224 x 224 in, 2 channels out: ill, well, the weights 32 x 32 in, 6 channels"
    ) as raised:
        check_net_in_out(stale)
    assert "`pack` corrects it there" in str(raised.value)


def test_package_says_what_its_weights_do(
    stale: Bundle, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stale.config_file("metadata").read_bytes()
    packed = staged_copy(stale, tmp_path / "staged")
    assert packed.image["spatial_shape"] == [32, 32]
    pred = packed.metadata["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {str(number): name for number, name in enumerate(CLASSES)}
    assert packed.metadata["network_data_format"] == Bundle(bundle).metadata["network_data_format"]
    assert "metadata.json is made to say what the weights do: 32 x 32 in" in capsys.readouterr().out
    assert stale.config_file("metadata").read_bytes() == before
    assert check_net_in_out(packed) == "image (1, 32, 32) to pred (6)"


def test_metadata_that_fits_is_left_alone(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bundle / "configs" / "metadata.json").read_bytes()
    fit_metadata(Bundle(bundle))
    assert (bundle / "configs" / "metadata.json").read_bytes() == before
    assert capsys.readouterr().out == ""
