from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, RandAdjustContrast, RandGaussianSmooth
from scipy import stats

from msdino_monai.errors import UserError
from msdino_monai.exporting import (
    AugmentedViewsd,
    Defences,
    describe_transform,
    list_images,
    recipients_of,
    state_dir_of,
    views_as_batch,
)
from msdino_monai.exporting.images import fingerprint
from msdino_monai.vault import unshuffle_tokens


def test_every_view_is_augmented_on_its_own() -> None:
    image = MetaTensor(torch.rand(1, 32, 32), meta={"flags": "look"})
    views = AugmentedViewsd("image", RandAdjustContrast(prob=1, gamma=(0.5, 2)), num_views=3)({"image": image})["image"]
    assert views.shape == (3, 1, 32, 32)
    assert views.meta["flags"] == "look"
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], image)
    assert 0 <= float(views.min()) <= float(views.max()) <= 1


def test_views_line_up_as_a_batch() -> None:
    views = torch.rand(4, 3, 1, 8, 8)
    batch, label = views_as_batch({"image": views})
    assert label is None
    torch.testing.assert_close(batch.unflatten(0, (4, 3)), views)


def test_noise_is_relative_to_the_view_and_never_the_same() -> None:
    tokens = np.random.default_rng(0).normal(0, [[[1.0]], [[10.0]]], (2, 400, 64)).astype(np.float32)
    shuffled, orders = Defences(noise=0.1).apply(tokens)
    noise = unshuffle_tokens(shuffled, orders) - tokens
    np.testing.assert_allclose(noise.std(axis=(1, 2)), [0.1, 1.0], rtol=0.05)
    again, again_orders = Defences(noise=0.1).apply(tokens)
    assert not np.array_equal(unshuffle_tokens(again, again_orders), unshuffle_tokens(shuffled, orders))


def test_noise_is_normal() -> None:
    """Every number from bytes of its own: the same bytes give the same noise, and all of them a bell."""
    tokens = np.random.default_rng(0).normal(0, 1, (1, 196, 384)).astype(np.float32)
    shuffled, orders = Defences(noise=1, randomness=np.random.Generator(np.random.PCG64(0)).bytes).apply(tokens)
    noise = np.sort((unshuffle_tokens(shuffled, orders) - tokens).ravel()) / tokens.std()
    expected = stats.norm.ppf((np.arange(noise.size) + 0.5) / noise.size)
    np.testing.assert_allclose(noise[1000:-1000], expected[1000:-1000], atol=0.05)
    assert np.isfinite(noise).all()
    edge = Defences(noise=1, randomness=lambda count: b"\0" * (count // 2) + b"\xff" * (count - count // 2))
    assert np.isfinite(edge.apply(tokens)[0]).all()


def test_dropped_tokens_are_drawn_anew_for_each_view() -> None:
    tokens = np.arange(2 * 50 * 3, dtype=np.float32).reshape(2, 50, 3)
    shuffled, orders = Defences(kept_share=0.6).apply(tokens)
    assert shuffled.shape == (2, 30, 3)
    assert set(orders[0]) != set(orders[1])
    np.testing.assert_array_equal(shuffled[1], tokens[1][orders[1]])


@pytest.mark.parametrize(
    "arguments", [{"noise": -0.1}, {"noise": math.nan}, {"noise": math.inf}, {"kept_share": 0.0}, {"kept_share": 1.5}]
)
def test_impossible_defences_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"got {next(iter(arguments.values()))}"):
        Defences(**arguments)


def test_description_differs_where_augmentations_differ() -> None:
    def describe(gamma: float, sigma: float) -> object:
        parts = [RandAdjustContrast(0.5, (0.5, gamma)), RandGaussianSmooth(sigma_x=(0.1, sigma))]
        return describe_transform(Compose(parts))

    assert describe(2.0, 1.0) == describe(2.0, 1.0)
    assert describe(2.0, 1.0) != describe(2.5, 1.0)
    assert describe(2.0, 1.0) != describe(2.0, 1.5)
    assert json.loads(json.dumps(describe(2.0, 1.0))) is not None


def test_datalist_names_images_and_patients(tmp_path: Path) -> None:
    sections = {"training": [{"image": "a.dcm", "patient": "p1", "label": [1]}], "test": [{"image": "b.dcm"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(sections))
    assert list_images(tmp_path, tmp_path / "datalist.json") == [
        {"image": "a.dcm", "patient": "p1"},
        {"image": "b.dcm", "patient": ""},
    ]


def test_patient_0_is_somebody(tmp_path: Path) -> None:
    patients = [0, None, "", 7]
    items = [{"image": f"{number}.dcm", "patient": patient} for number, patient in enumerate(patients)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
    listed = list_images(tmp_path, tmp_path / "datalist.json")
    assert [item["patient"] for item in listed] == ["0", "", "", "7"]


@pytest.mark.parametrize("output_dir", ["images", ".", "images/../images"])
def test_export_cannot_go_around_the_radiographs(tmp_path: Path, output_dir: str) -> None:
    (tmp_path / "images" / "out").mkdir(parents=True)
    (tmp_path / "images" / "a.dcm").touch()
    with pytest.raises(UserError, match="where the output goes; name another output_dir"):
        list_images(tmp_path / "images", leave_out=[tmp_path / output_dir])
    assert len(list_images(tmp_path / "images", leave_out=[tmp_path / "images" / "out"])) == 1


def test_sections_leave_out_what_is_tested_on_later(tmp_path: Path) -> None:
    datalist = tmp_path / "datalist.json"
    names = {"training": "a.dcm", "validation": "b.dcm", "test": "c.dcm"}
    datalist.write_text(json.dumps({section: [{"image": name}] for section, name in names.items()}))

    def exported(sections: str | tuple[str, ...]) -> list[str]:
        return [item["image"] for item in list_images(tmp_path, datalist, sections=sections)]

    assert exported("training") == ["a.dcm"]
    assert exported("training, validation") == exported(("training", "validation")) == ["a.dcm", "b.dcm"]
    for sections, words in {"trainig": "training, validation, test, got trainig", "": "got none"}.items():
        with pytest.raises(UserError, match=words):
            exported(sections)
    with pytest.raises(UserError, match="give --datalist"):
        list_images(tmp_path, sections="training")
    datalist.write_text(json.dumps({"test": [{"image": "c.dcm"}]}))
    with pytest.raises(UserError, match="needs training entries"):
        exported("training")


@pytest.mark.parametrize("text", ["{", "[]", '{"training": []}', '{"training": [{"label": 1}]}'])
def test_unusable_datalist_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(UserError, match="datalist"):
        list_images(tmp_path, tmp_path / "datalist.json")


def test_datalist_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    for image in ("../secret.dcm", "/etc/secret.dcm"):
        (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": image}]}))
        with pytest.raises(UserError, match="outside"):
            list_images(tmp_path, tmp_path / "datalist.json")


def test_state_lies_beside_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_dir_of("out/export/") == f"{tmp_path}/out/export.state"
    assert state_dir_of(".") == f"{tmp_path}.state"
    assert state_dir_of("out", "elsewhere") == f"{tmp_path}/elsewhere"
    with pytest.raises(UserError, match="must not contain each other"):
        state_dir_of("out", "out/state")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_two_views_are_augmented_alike(num_workers: int) -> None:
    """Forked workers start from one random state; sharing it would give copies of one view."""
    views = AugmentedViewsd("image", Compose([RandAdjustContrast(prob=1, gamma=(0.5, 2))]), num_views=3)
    image = torch.rand(1, 16, 16)
    loader = DataLoader(Dataset([{"image": image}] * 8, views), batch_size=1, num_workers=num_workers)
    drawn = torch.cat([torch.as_tensor(batch["image"]).flatten(0, 1) for batch in loader])
    assert len(torch.unique(drawn, dim=0)) == 24


@pytest.mark.parametrize("value", ["", " ", ",", [], 0, "age1x"])
def test_recipient_that_is_given_must_be_one(value: object) -> None:
    with pytest.raises(UserError, match=r"recipient is given but empty|not an age public key"):
        recipients_of(value)
    assert recipients_of(None) == ()


def test_images_are_told_apart_by_content_not_by_name(tmp_path: Path) -> None:
    big = np.random.default_rng(0).integers(0, 255, 400_000, dtype=np.uint8)
    for name, change in {"a": -1, "copy of a": -1, "start": 10, "middle": 200_000, "end": 399_990}.items():
        data = big.copy()
        if change >= 0:
            data[change] ^= 1
        (tmp_path / name).write_bytes(data.tobytes())
    prints = {name: fingerprint(tmp_path / name) for name in ("a", "copy of a", "start", "middle", "end")}
    assert prints["a"] == prints["copy of a"]
    assert len(set(prints.values())) == 4
    assert fingerprint(tmp_path / "absent").startswith("no file")


def test_folder_of_one_file_is_that_image(tmp_path: Path) -> None:
    """As the reader takes it: the same radiograph named by its folder, or moved, is not exported twice."""
    for name in ("series", "moved"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.dcm").write_bytes(b"one")
    prints = {fingerprint(tmp_path / name) for name in ("series", "moved", "series/deep/a.dcm")}
    assert len(prints) == 1
    (tmp_path / "series" / "b.dcm").touch()
    assert fingerprint(tmp_path / "series").startswith("no file")


def test_datalist_without_a_patient_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text('{"training": [{"image": "a.dcm", "patient": null}]}')
    assert list_images(tmp_path, tmp_path / "datalist.json") == [{"image": "a.dcm", "patient": ""}]
