"""The volumes as folders: the same for the same seed, whole after an interruption, learnable and not alike."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.finetuning import read_datalist
from msdino_monai.images.abdomen import CLASSES, volumes, write_volumes
from msdino_monai.images.abdomen.plan import Patient, patients, sections
from msdino_monai.images.abdomen.scan import Scan, make_scan
from msdino_monai.images.abdomen.site import site
from msdino_monai.images.cohort.scanner import MAX_SITES
from msdino_monai.images.volume import LoadVolumed, LoadVolumeMaskd, read_volume

SETTINGS = {"sites": 3, "patients_per_site": 4, "size": 32, "slices": 6, "seed": 5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "small"
    write_volumes(str(folder), **SETTINGS, as_dicom=True)
    return folder


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    """Two patients of each site with a tumour, at the default size."""
    return [make_scan(Patient(1, number, patient, True), 96, 24) for number in range(3) for patient in range(2)]


def test_the_same_seed_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write_volumes(str(tmp_path), **SETTINGS, as_dicom=True)
    assert contents(tmp_path) == contents(small)


def test_another_seed_gives_other_patients(small: Path, tmp_path: Path) -> None:
    write_volumes(str(tmp_path), **{**SETTINGS, "sites": 1, "seed": 6})
    one, other = (read_volume(folder / "site_a/images/a0001.nii.gz") for folder in (small, tmp_path))
    assert (one != other).float().mean() > 0.5


def test_a_volume_does_not_depend_on_how_many_are_made(small: Path, tmp_path: Path) -> None:
    write_volumes(str(tmp_path), **{**SETTINGS, "sites": 2, "patients_per_site": 7}, as_dicom=False)
    for name in ("site_a/images/a0001.nii.gz", "site_b/labels/b0004.nii.gz"):
        assert (tmp_path / name).read_bytes() == (small / name).read_bytes()


def test_a_run_after_an_interruption_completes_the_same_bytes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = volumes.write_patient, []

    def interrupted(*arguments: object) -> bool:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(volumes, "write_patient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_volumes(str(tmp_path), **SETTINGS, as_dicom=True)
    monkeypatch.undo()
    (tmp_path / "site_a/labels/a0001.nii.gz").unlink()
    write_volumes(str(tmp_path), **SETTINGS, as_dicom=True)
    assert contents(tmp_path) == contents(small)


def test_a_second_run_makes_nothing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volumes(str(small), **SETTINGS, as_dicom=True)
    printed = capsys.readouterr()
    assert "12 of 3 sites, 0 made now" in printed.out
    assert printed.err == ""


def test_datalists_are_read_by_training(small: Path) -> None:
    for folder in sorted(small.glob("site_*")):
        items = read_datalist(None, folder)
        names = [item["patient"] for part in items.values() for item in part]
        assert len(set(names)) == len(names) == 4
        load = LoadVolumeMaskd("label", CLASSES)
        for item in (item for part in items.values() for item in part):
            loaded = load(LoadVolumed("image")(item))
            assert loaded["image"].shape == loaded["label"].shape == (1, 32, 32, 6)


def test_test_patients_have_a_series_that_is_the_same_volume(small: Path) -> None:
    for folder in sorted(small.glob("site_*")):
        lists = json.loads((folder / "datalist.json").read_text())
        assert all("dicom" not in item for name in ("training", "validation") for item in lists[name])
        for item in lists["test"]:
            series, nifti = read_volume(folder / item["dicom"]), read_volume(folder / item["image"])
            assert sorted(series.flatten().tolist()) == sorted(nifti.flatten().tolist())


def test_sites_differ_in_spacing_orientation_and_storage(small: Path) -> None:
    images = [nibabel.load(folder / f"images/{folder.name[-1]}0001.nii.gz") for folder in sorted(small.glob("site_*"))]
    assert [round(float(np.linalg.norm(image.affine[:3, 2])), 3) for image in images] == [4.0, 3.0, 5.0]
    assert len({nibabel.aff2axcodes(image.affine) for image in images}) == 3
    assert [image.dataobj.inter for image in images] == [0.0, -1024.0, 0.0]
    oblique = [abs(image.affine[1, 2]) > 0.1 for image in images]
    assert oblique == [False, False, True]


def test_organs_have_plausible_sizes_and_tumours_are_never_cut_away(scans: list[Scan]) -> None:
    for scan in scans:
        millilitres = abs(np.linalg.det(scan.affine[:3, :3])) / 1000.0
        kidney, tumour = ((scan.label == number).sum() * millilitres for number in (1, 2))
        assert 60 < kidney < 500
        assert 0.5 < tumour < 200


def test_kidneys_stand_out_and_tumours_less(scans: list[Scan]) -> None:
    """Learnable, not trivial: the kidneys' mean lies apart from all else in the body, the tumours' near to others."""
    for scan in scans:
        body = scan.hounsfield > -300
        kidney, tumour = (scan.hounsfield[scan.label == number] for number in (1, 2))
        rest = scan.hounsfield[body & (scan.label == 0)]
        assert kidney.mean() > rest.mean()
        assert (np.abs(rest - tumour.mean()) < tumour.std()).sum() > 10 * tumour.size


@pytest.mark.parametrize("number", range(5))
def test_every_section_has_somebody_and_tumours_are_shared_out(number: int) -> None:
    for count in (3, 5, 12, 40):
        everyone = patients(2, number, count)
        shared = sections(everyone)
        assert sorted(p.number for group in shared.values() for p in group) == list(range(count))
        assert all(shared.values())
        if count == 40:
            shares = [np.mean([p.tumour for p in group]) for group in shared.values()]
            assert max(shares) - min(shares) < 0.2


@pytest.mark.parametrize("count", [1, 2])
def test_few_patients_are_all_for_training_first(count: int) -> None:
    assert len(sections(patients(0, 0, count))["training"]) >= 1


@pytest.mark.parametrize("number", range(4))
def test_tumours_are_as_frequent_as_described_and_patients_stay_who_they_are(number: int) -> None:
    many = patients(4, number, 200)
    assert np.mean([patient.tumour for patient in many]) == pytest.approx(site(number).tumours, abs=0.01)
    assert many[1:20] == patients(4, number, 20)[1:]
    assert any(patient.tumour for patient in patients(4, number, 1))


def test_further_sites_have_styles_of_their_own() -> None:
    assert len({repr(site(number)) for number in range(MAX_SITES)}) == MAX_SITES
    assert site(9) == site(9)


def test_sheet_shows_every_site(tmp_path: Path) -> None:
    arguments = ["--output_dir", str(tmp_path / "v"), "--sheet", str(tmp_path / "deep/s.png")]
    settings = [
        text for name, value in {**SETTINGS, "patients_per_site": 1}.items() for text in (f"--{name}", str(value))
    ]
    assert main(["volumes", *arguments, *settings]) == 0
    page = np.array(Image.open(tmp_path / "deep/s.png").convert("RGB")).astype(int)
    for row in range(3):
        tile = page[30 + 68 * row :, 110:][:64, :64]
        assert tile.std() > 20
        assert (np.ptp(tile, axis=2) > 60).any()  # outlines are in colour


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sites", 0), ("sites", 27), ("patients_per_site", 0), ("size", 8), ("slices", 1), ("seed", -1),
        ("seed", "x"), ("sheet", "a.jpg"), ("output_dir", ""), ("output_dir", True),
    ],
)  # fmt: skip
def test_a_bad_value_gets_one_line(setting: str, value: object, tmp_path: Path) -> None:
    arguments = {"output_dir": str(tmp_path / "new"), setting: value}
    with pytest.raises(UserError, match=f"--{setting}") as caught:
        write_volumes(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        write_volumes(str(tmp_path), sites=1, patients_per_site=1, size=32, slices=4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_volumes_of_other_settings_are_refused(small: Path) -> None:
    with pytest.raises(UserError, match="volumes of other seed"):
        write_volumes(str(small), **{**SETTINGS, "seed": 6}, as_dicom=True)
