"""The cohort as a folder: the same for the same seed, whole after an interruption, honest in its counts."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from msdino_monai.errors import UserError
from msdino_monai.images.cohort import FINDINGS, cohort, write_cohort
from msdino_monai.images.cohort.plan import SPLITS, deal_findings, round_half_up, split_patients, visits
from msdino_monai.images.cohort.scanner import MAX_SITES, site_style

GOLDEN = "afbdf594aeb9115c137f9583d29e9aa0ebcb666d9f2457504f5b8a31592a945e"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "small"
    write_cohort(str(folder), sites=3, patients_per_site=4, seed=5, image_size=128)
    return folder


def test_the_same_seed_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write_cohort(str(tmp_path), sites=3, patients_per_site=4, seed=5, image_size=128)
    assert contents(tmp_path) == contents(small)


def test_another_seed_gives_other_images(small: Path, tmp_path: Path) -> None:
    write_cohort(str(tmp_path), sites=1, patients_per_site=4, seed=6, image_size=128)
    one, other = (pydicom.dcmread(folder / "site_a/images/a0001_1.dcm") for folder in (small, tmp_path))
    assert one.PixelData != other.PixelData
    assert one.SOPInstanceUID != other.SOPInstanceUID


def test_bytes_are_the_same_on_every_numpy_and_pydicom(small: Path) -> None:
    """PNG files are compared by their pixels: their compression belongs to pillow."""
    digest = hashlib.sha256()
    for path in sorted(small.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(small)).encode())
            digest.update(np.array(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes())
    assert digest.hexdigest() == GOLDEN


def test_an_image_does_not_depend_on_how_many_are_made(small: Path, tmp_path: Path) -> None:
    write_cohort(str(tmp_path), sites=1, patients_per_site=4, seed=5, image_size=128)
    kept = {name: data for name, data in contents(small).items() if name.startswith("site_a/")}
    assert {name: data for name, data in contents(tmp_path).items() if name.startswith("site_a/")} == kept


def test_complete_groups_of_patients_stay_the_same_in_a_larger_cohort() -> None:
    assert (deal_findings(3, 1, 40) == deal_findings(3, 1, 117)[:40]).all()
    assert visits(3, 1, 40) == [visit for visit in visits(3, 1, 117) if visit.patient < 40]


def test_a_run_after_an_interruption_completes_the_same_bytes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = cohort.write_visit, []

    def interrupted(*arguments: object) -> bool:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort, "write_visit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(str(tmp_path), sites=3, patients_per_site=4, seed=5, image_size=128)
    monkeypatch.undo()
    (tmp_path / "site_a/masks/a0001_1_lungs.png").unlink()
    write_cohort(str(tmp_path), sites=3, patients_per_site=4, seed=5, image_size=128)
    assert contents(tmp_path) == contents(small)


def test_a_second_run_makes_nothing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*.dcm")}
    write_cohort(str(small), sites=3, patients_per_site=4, seed=5, image_size=128)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*.dcm")} == before
    printed = capsys.readouterr()
    assert "0 made now" in printed.out
    assert printed.out.count("\n") == 1
    assert printed.err == ""


@pytest.mark.parametrize("patients", [1, 7, 60, 200])
@pytest.mark.parametrize("site", [0, 1, 2, 7])
def test_prevalence_is_exactly_as_configured(site: int, patients: int) -> None:
    table = deal_findings(11, site, patients)
    assert table.sum(axis=0).tolist() == [round_half_up(p * patients) for p in site_style(site).prevalence]


def test_some_patients_come_back() -> None:
    every = visits(0, 0, 400)
    assert 0.2 < sum(visit.visit == 1 for visit in every) / 400 < 0.4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("site", range(3))
def test_splits_share_out_patients_and_every_finding(site: int, seed: int) -> None:
    split = np.array(split_patients(seed, site, 60))
    table = deal_findings(seed, site, 60)
    for name, share in SPLITS.items():
        assert abs((split == name).sum() - share * 60) <= 3
        assert table[split == name].any(axis=0).all()


def test_no_patient_is_in_two_splits(small: Path) -> None:
    for page in small.glob("*/datalist.json"):
        lists = json.loads(page.read_text())
        patients = [{entry["patient"] for entry in lists[name]} for name in SPLITS]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 4


def test_datalists_name_every_file_once(small: Path) -> None:
    for page in small.glob("*/datalist.json"):
        lists = json.loads(page.read_text())
        named = [entry[key] for name in SPLITS for entry in lists[name] for key in ("image", "lungs", "lesions")]
        files = {str(p.relative_to(page.parent)) for p in page.parent.glob("*/*")}
        assert sorted(named) == sorted(files)
        assert lists["labels"] == list(FINDINGS)
        assert "SYNTHETIC" in lists["description"]


def test_further_sites_have_styles_of_their_own() -> None:
    assert len({site_style(site) for site in range(MAX_SITES)}) == MAX_SITES


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sites", 0), ("sites", 27), ("sites", True), ("patients_per_site", 0), ("patients_per_site", 2.5),
        ("seed", -1), ("seed", "x"), ("image_size", 8), ("output_dir", ""), ("output_dir", True),
    ],
)  # fmt: skip
def test_a_bad_value_gets_one_line(setting: str, value: object, tmp_path: Path) -> None:
    arguments = {"output_dir": str(tmp_path / "new"), setting: value}
    with pytest.raises(UserError, match=f"--{setting}") as caught:
        write_cohort(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        write_cohort(str(tmp_path), sites=1, patients_per_site=1, image_size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_cohort_of_other_settings_is_refused(small: Path) -> None:
    with pytest.raises(UserError, match="seed"):
        write_cohort(str(small), sites=3, patients_per_site=4, seed=6, image_size=128)
