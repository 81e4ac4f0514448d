"""Whose images an audit exports, whose the attacker learns from, and what is asked of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from privacy_exports import BUNDLE

from msdino_monai.errors import UserError
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.privacy.attribute import guess_attribute
from msdino_monai.privacy.header import read_header, read_patient
from msdino_monai.privacy.pool import ExportBundle, read_labels, read_pool

TINY = ExportBundle(BUNDLE, {"img_size": 32})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospital")
    write_cohort(str(root), sites=1, patients_per_site=24, seed=2, image_size=64)
    return root / "site_a"


def test_attacker_never_learns_from_exported_patients(hospital: Path, tmp_path: Path) -> None:
    """Not even if somebody gives the same folder twice, or copies of it under other names."""
    images = hospital / "images"
    (tmp_path / "copies").mkdir()
    for path in images.iterdir():
        shutil.copy(path, tmp_path / "copies" / f"copy_{path.name}")
    for auxiliary_dir in (None, images, tmp_path / "copies"):
        pool = read_pool(
            TINY,
            images,
            tmp_path / "out",
            auxiliary_dir=auxiliary_dir,
            exported=8,
            auxiliary=40,
            quarantine=Quarantine(tmp_path),
        )
        assert not {image.patient for image in pool.exported} & {image.patient for image in pool.auxiliary}
        pictures = {image.picture.tobytes() for image in pool.exported}
        assert not pictures & {image.picture.tobytes() for image in pool.auxiliary}
        assert len(pool.auxiliary) >= 8
    assert "of exported patients" in pool.source


def test_other_radiographs_of_exported_patients_are_looked_for(hospital: Path, tmp_path: Path) -> None:
    """However few images are read beside them."""
    pool = read_pool(
        TINY,
        hospital / "images",
        tmp_path / "out",
        auxiliary_dir=hospital / "images",
        exported=16,
        auxiliary=40,
        quarantine=Quarantine(tmp_path),
    )
    patients, files = ({getattr(image, name) for image in pool.exported} for name in ("patient", "file"))
    twice = [path for path in (hospital / "images").iterdir() if read_patient(path) in patients]
    assert len(pool.relatives) == len(twice) - 16 > 0
    assert all(image.patient in patients and image.file not in files for image in pool.relatives)


def test_auxiliary_folder_that_is_not_there_is_named(hospital: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--auxiliary_dir .*nowhere is no folder"):
        read_pool(TINY, hospital, tmp_path, auxiliary_dir=tmp_path / "nowhere", quarantine=Quarantine(tmp_path))


def test_too_few_images_come_with_the_reason(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in "ab":
        (images / name).write_bytes(b"no image")
    (images / "c").touch()
    said = r"0 usable images in .*; an audit needs at least 3\. Most often \(2 files\): open: not DICOM, PNG"
    with pytest.raises(UserError, match=said):
        read_pool(TINY, images, tmp_path / "out", quarantine=Quarantine(tmp_path))


def test_headers_that_cannot_be_read_say_nothing(write_dicom: Callable[..., Path], picture: np.ndarray) -> None:
    """Whatever pydicom raises; and a pipe does not hang."""
    path = write_dicom(picture)
    assert read_patient(path) == "hospital-number-77"
    path.write_bytes(path.read_bytes().replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00U^"))
    with pytest.raises(NotImplementedError):
        pydicom.dcmread(path)
    assert read_patient(path) == ""
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    assert read_header(pipe) == read_header(path.with_name("absent")) == {}


def test_sex_is_read_from_headers_and_rare_classes_are_unknown(hospital: Path) -> None:
    files = sorted(f"images/{path.name}" for path in (hospital / "images").iterdir())
    labels = read_labels(files, hospital / "datalist.json", hospital)
    assert sorted(np.unique(labels["sex"])) == [0, 1]
    assert "folder" not in labels, "all lie in one"
    assert "machine" not in labels, "all are of one"
    for classes in labels.values():
        assert np.unique(classes[classes >= 0], return_counts=True)[1].min() >= 6
    assert read_labels(["a.png", "b.png"], None, hospital) == {}


def test_label_that_is_not_known_of_every_image_is_still_asked(tmp_path: Path) -> None:
    items = [
        {"image": f"{number}.png", "label": [number % 2, -1 if number < 3 else number % 2]} for number in range(20)
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": ["effusion", "nodule"], "training": items}))
    labels = read_labels([str(item["image"]) for item in items], tmp_path / "datalist.json", tmp_path)
    assert set(labels) == {"effusion", "nodule"}
    assert labels["nodule"][:4].tolist() == [-1, -1, -1, 1]


def test_probe_is_not_judged_on_patients_it_has_seen() -> None:
    """Ten patients of four images each, all alike: who has seen the patient knows the label, who has not guesses."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10) % 2, 4).astype(np.int64)
    patients = [f"p{number}" for number in np.repeat(np.arange(10), 4)]
    tokens = np.repeat(generator.standard_normal((10, 9, 40)), 4, axis=0).astype(np.float32)
    seen = guess_attribute(tokens, labels).argmax(1) == labels
    unseen = guess_attribute(tokens, labels, patients=patients).argmax(1) == labels
    assert seen.mean() > 0.9
    assert unseen.mean() < 0.8
