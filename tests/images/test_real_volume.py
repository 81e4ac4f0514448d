"""Real volumes of two patients: a CT with its labels, and a CT as a compressed DICOM series with labels drawn on it.

They lie in the source archive of TotalSegmentator 2.3.0 (Apache-2.0, 8 MB), which is downloaded once through pip and
kept in pytest's cache. One subject each: they show that geometry holds, not how well anything segments.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, SaveImaged, Spacingd

from msdino_monai.images.volume import LoadVolumed, LoadVolumeMaskd, read_volume, read_volume_mask

SHA256 = "bc6105746d02d2198703f566ca5213c828255d4ebf88e5eea483dbaa5969c820"
CLASSES = 117  # of TotalSegmentator's task `total`
LIVER, LUNGS, VERTEBRAE = (5,), range(10, 15), range(26, 51)


def download(folder: Path) -> Path:
    """The archive, checked by its hash; skips where no registry answers."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"totalsegmentator==2.3.0 --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--retries", "1"]
    try:
        told = subprocess.run([*pip, "-r", str(wanted), "-d", str(folder)], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("no real volumes: pip did not answer within three minutes")
    assert "DO NOT MATCH THE HASHES" not in told.stderr
    if told.returncode:
        pytest.skip("no real volumes: pip could not download totalsegmentator 2.3.0")
    return next(path for path in folder.iterdir() if path.name.lower() == "totalsegmentator-2.3.0.tar.gz")


@pytest.fixture(scope="session")
def real(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's reference files."""
    cache = getattr(pytestconfig, "cache", None)  # there is none with `-p no:cacheprovider`
    kept = cache.mkdir("totalsegmentator") if cache else tmp_path_factory.mktemp("cache")
    archive = kept / f"{SHA256}.tar.gz"
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may ask at once
        if not archive.is_file():
            download(tmp_path_factory.mktemp("download")).replace(archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(archive) as content:
        members = [each for each in content.getmembers() if "/tests/reference_files/example_" in each.name]
        content.extractall(folder, [each for each in members if each.isfile()], filter="data")
    return next(folder.glob("*/tests/reference_files"))


def mean_of(volume: MetaTensor, mask: MetaTensor, classes: tuple[int, ...] | range) -> float:
    inside = np.isin(mask.numpy(), list(classes))
    assert inside.sum() > 1000
    return float(volume.numpy()[inside].mean())


def test_ct_and_its_labels_show_the_same_organs(real: Path) -> None:
    assert read_volume(real / "example_ct.nii.gz").shape == (1, 122, 101, 112)
    image = read_volume(real / "example_ct_sm.nii.gz")
    labels = read_volume_mask(real / "example_seg.nii.gz", image, CLASSES)
    assert len(labels.unique()) == 41
    assert 20 < mean_of(image, labels, LIVER) < 120
    assert mean_of(image, labels, LUNGS) < -600
    assert mean_of(image, labels, VERTEBRAE) > 150


# ITK loads lazily, and its SWIG modules crash where the DeprecationWarning they give is an error.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_itk_reads_the_series_alike(real: Path) -> None:
    volume = read_volume(real / "example_ct_dicom")
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(real / "example_ct_dicom"))
    image = itk.imread(list(names.GetInputFileNames()), itk.F)
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    affine[:3, 3] = list(image.GetOrigin())
    np.testing.assert_array_equal(volume[0].numpy(), itk.array_from_image(image).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)


def test_labels_drawn_on_the_converted_series_lie_right_on_the_series(real: Path) -> None:
    volume = read_volume(real / "example_ct_dicom")
    assert nibabel.aff2axcodes(volume.affine.numpy()) != nibabel.aff2axcodes(
        nibabel.load(real / "example_seg_dicom.nii.gz").affine
    )
    labels = read_volume_mask(real / "example_seg_dicom.nii.gz", volume, CLASSES)
    assert 50 < mean_of(volume, labels, LIVER) < 150
    assert mean_of(volume, labels, VERTEBRAE) > 150


@pytest.mark.parametrize("name", ["example_ct_sm.nii.gz", "example_mr_sm.nii.gz", "example_ct_dicom"])
def test_what_is_inverted_and_saved_lies_where_it_was_read(real: Path, tmp_path: Path, name: str) -> None:
    """Turned, resampled, inverted, written: the file has the input's geometry."""
    before = Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", "LPS", labels=None),
            Spacingd("image", (2.0, 2.0, 3.0), mode="bilinear"),
        ]
    )
    after = Compose(
        [
            Invertd("image", before, orig_keys="image", nearest_interp=False),
            SaveImaged("image", output_dir=tmp_path, output_postfix="", separate_folder=False, print_log=False),
        ]
    )
    after(before({"image": str(real / name)}))
    original = read_volume(real / name)
    saved = nibabel.load(next(tmp_path.glob("*.nii.gz")))
    assert saved.shape == tuple(original.shape[1:])
    np.testing.assert_allclose(saved.affine, original.affine, atol=1e-3)
    values = saved.get_fdata().ravel(), original[0].numpy().ravel()
    assert np.corrcoef(*values)[0, 1] > 0.9


def test_labels_survive_the_way_back(real: Path) -> None:
    load = Compose([LoadVolumed("image"), LoadVolumeMaskd("label", CLASSES)])
    files = {"image": str(real / "example_ct_sm.nii.gz"), "label": str(real / "example_seg.nii.gz")}
    loaded = load(files)
    turn = Compose([Orientationd(["image", "label"], "LPS", labels=None)])
    turned = turn(loaded)
    assert (turned["label"] != loaded["label"]).any()
    back = Invertd(["image", "label"], turn, orig_keys=["image", "label"])(turned)
    for key in ("image", "label"):
        np.testing.assert_array_equal(back[key].numpy(), read_volume(files[key]).numpy())
