"""Fed-KiTS19 and Fed-IXI from small imitations of what FLamby leaves on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from public_data import patients, read

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.finetuning import read_datalist
from msdino_monai.finetuning.datalists.fed_ixi import fed_ixi
from msdino_monai.finetuning.datalists.fed_kits19 import fed_kits19
from msdino_monai.images.volume import LoadVolumed, LoadVolumeMaskd

# KiTS19's arrays hold slices first, and their affine says so.
AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])


def write_volume(path: Path, value: float = 40.0, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((5, 6, 4), value, dtype=np.int16), affine), path)


def write_mask(path: Path, highest: int = 1, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((5, 6, 4), dtype=np.uint8)
    mask[1:3, 1:3, 1:3], mask[1, 1, 1] = 1, highest
    nibabel.save(nibabel.Nifti1Image(mask, affine), path)


@pytest.fixture
def kits(tmp_path: Path) -> tuple[Path, Path]:
    """Two hospitals of six cases, four for training; the last case is of no hospital."""
    table = ["case_ids,site_ids,train_test_split,train_test_split_silo"]
    for case in range(13):
        write_volume(tmp_path / f"kits19/data/case_{case:05d}/imaging.nii.gz", case)
        write_mask(tmp_path / f"kits19/data/case_{case:05d}/segmentation.nii.gz", 2)
        site, section = case // 6, "train" if case % 6 < 4 else "test"
        table += [f"case_{case:05d},{site},{section},{section}_{site}"] * (case < 12)
    (tmp_path / "thresholded_sites.csv").write_text("\n".join(table) + "\n")
    return tmp_path / "kits19", tmp_path / "thresholded_sites.csv"


SUBJECTS = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI014-HH-1236", "IXI016-Guys-0697",
            "IXI017-Guys-0698", "IXI035-IOP-0873", "IXI230-IOP-0869", "IXI231-IOP-0866")  # fmt: skip


@pytest.fixture
def ixi(tmp_path: Path) -> tuple[Path, Path]:
    """As FLamby unpacks it: three subjects of each hospital, the last one for testing."""
    sample = tmp_path / "7kd5wj7v7p-3" / "IXI_sample"
    table = ["Patient ID,Manufacturer,Split"]
    numbers = {"Guys": 0, "HH": 1, "IOP": 2}
    tests = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI231-IOP-0866")
    for name in SUBJECTS:
        write_volume(sample / name / "T1" / f"{name}_image.nii.gz")
        write_mask(sample / name / "label" / f"{name}_label.nii.gz")
        section = "test" if name in tests else "train"
        table.append(f"{int(name[3:6])},{numbers[name.split('-')[1]]},{section}")
    (sample / "IXI.xls").write_bytes(b"demographics")
    (tmp_path / "metadata_tiny.csv").write_text("\n".join(table))
    return tmp_path, tmp_path / "metadata_tiny.csv"


def test_kits19_keeps_hospitals_and_published_test_cases(kits: tuple[Path, Path], tmp_path: Path) -> None:
    assert fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"), validation_share=0.25) == 0
    assert sorted(path.name for path in (tmp_path / "fed").iterdir()) == ["site_0", "site_1"]
    for site in range(2):
        content = read(tmp_path / f"fed/site_{site}/datalist.json")
        who = patients(content)
        assert who["test"] == {f"case_{6 * site + case:05d}" for case in (4, 5)}
        assert who["training"] | who["validation"] == {f"case_{6 * site + case:05d}" for case in range(4)}
        assert len(who["validation"]) == 1
        assert content["classes"] == ["kidney", "tumour"]
        assert content["description"].endswith("datalist fed_kits19 --validation_share 0.25 --seed 0")


def test_site_folders_are_read_by_training(kits: tuple[Path, Path], tmp_path: Path) -> None:
    fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"))
    items = read_datalist(None, tmp_path / "fed/site_1")
    load = LoadVolumeMaskd("label", ("kidney", "tumour"))
    for item in (item for part in items.values() for item in part):
        loaded = load(LoadVolumed("image")(item))
        assert float(loaded["image"].max()) == int(item["patient"][-2:])
        assert float(loaded["label"].max()) == 2.0


def test_ixi_goes_to_three_hospitals(ixi: tuple[Path, Path], tmp_path: Path) -> None:
    assert fed_ixi(str(ixi[0]), str(ixi[1]), str(tmp_path / "fed")) == 0
    found = {path.parent.name: patients(read(path)) for path in (tmp_path / "fed").glob("*/datalist.json")}
    assert {site: who["test"] for site, who in found.items()} == {
        "guys": {"IXI002-Guys-0828"},
        "hh": {"IXI012-HH-1211"},
        "iop": {"IXI231-IOP-0866"},
    }
    assert all(len(who["training"]) == len(who["validation"]) == 1 for who in found.values())
    item = read(tmp_path / "fed/hh/datalist.json")["test"][0]
    assert item["image"] == "IXI012-HH-1211/IXI012-HH-1211_image.nii.gz"


@pytest.mark.parametrize("depth", ["", "7kd5wj7v7p-3", "7kd5wj7v7p-3/IXI_sample"])
def test_root_may_be_any_folder_on_the_way(ixi: tuple[Path, Path], tmp_path: Path, depth: str) -> None:
    assert fed_ixi(str(ixi[0] / depth), str(ixi[1]), str(tmp_path / "fed")) == 0


def test_volumes_are_linked_and_on_demand_copied(kits: tuple[Path, Path], tmp_path: Path) -> None:
    image = Path("site_0/case_00000/imaging.nii.gz")
    original = kits[0] / "data/case_00000/imaging.nii.gz"
    fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "linked"))
    assert (tmp_path / "linked" / image).resolve() == original.resolve()
    fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "copied"), copy=True)
    assert not (tmp_path / "copied" / image).is_symlink()
    assert (tmp_path / "copied" / image).read_bytes() == original.read_bytes()
    shutil.rmtree(kits[0])
    assert read_datalist(None, tmp_path / "copied/site_0")["test"]
    with pytest.raises(UserError, match=r"files of datalist .* are not in dataset_dir"):
        read_datalist(None, tmp_path / "linked/site_0")


def test_second_run_changes_nothing_and_mends_what_is_gone(kits: tuple[Path, Path], tmp_path: Path) -> None:
    def everything() -> dict[str, str]:
        assert fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed")) == 0
        files = (path for path in (tmp_path / "fed").rglob("*") if not path.is_dir())
        return {str(p): str(p.readlink()) if p.is_symlink() else p.read_text() for p in files}

    first = everything()
    assert len(first) == 26
    (tmp_path / "fed/site_1/case_00007/imaging.nii.gz").unlink()
    assert everything() == first


def lose(folder: Path) -> None:
    (folder / "imaging.nii.gz").unlink()


def number_wrongly(folder: Path) -> None:
    write_mask(folder / "segmentation.nii.gz", highest=7)


def shift(folder: Path) -> None:
    moved = AFFINE.copy()
    moved[2, 3] = 30.0
    write_mask(folder / "segmentation.nii.gz", 2, moved)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lose, "no imaging.nii.gz"),
        (number_wrongly, "holds 7 but the classes are 0 to 2"),
        (shift, "lies up to 30 mm beside"),
    ],
)
def test_unusable_cases_are_left_out_and_listed(
    kits: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "before"))
    before = read(tmp_path / "before/site_0/datalist.json")
    spoil(kits[0] / "data/case_00001")
    assert fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed")) == 3
    listed = (tmp_path / "fed/site_0/datalist.missing.txt").read_text()
    assert listed.startswith("case_00001/imaging.nii.gz (")
    assert reason in listed
    after = read(tmp_path / "fed/site_0/datalist.json")
    for section in ("training", "validation", "test"):
        assert after[section] == [item for item in before[section] if item["patient"] != "case_00001"]
    assert not (tmp_path / "fed/site_0/case_00001").exists()
    assert not (tmp_path / "fed/site_1/datalist.missing.txt").exists()


def test_unchecked_masks_are_taken_as_they_are(kits: tuple[Path, Path], tmp_path: Path) -> None:
    number_wrongly(kits[0] / "data/case_00001")
    assert fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"), check=False) == 0


def test_site_without_any_case_is_told_and_left_out(
    kits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in range(6, 12):
        shutil.rmtree(kits[0] / f"data/case_{case:05d}")
    assert fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed")) == 3
    assert "site_1: none of its 6 cases can be used (case_00006, case_00007" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "fed").iterdir()] == ["site_0"]


def test_nothing_usable_is_refused_with_a_reason(kits: tuple[Path, Path], tmp_path: Path) -> None:
    for mask in kits[0].rglob("segmentation.nii.gz"):
        mask.unlink()
    with pytest.raises(UserError, match=r"none of the 12 cases .* \(case_00000: no segmentation.nii.gz\); expected"):
        fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"))
    assert not (tmp_path / "fed").exists()


def test_subject_without_a_folder_is_listed_and_one_without_a_row_told(
    ixi: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ixi[0] / "7kd5wj7v7p-3/IXI_sample"
    shutil.rmtree(sample / "IXI035-IOP-0873")
    (sample / "IXI999-Guys-0001").mkdir()
    assert fed_ixi(str(ixi[0]), str(ixi[1]), str(tmp_path / "fed")) == 3
    assert (tmp_path / "fed/iop/datalist.missing.txt").read_text().startswith("IXI035-IOP/")
    assert "1 subjects in" in (shown := capsys.readouterr().out)
    assert "(999)" in shown


def test_hospital_of_table_and_folder_must_agree(ixi: tuple[Path, Path], tmp_path: Path) -> None:
    ixi[1].write_text(ixi[1].read_text().replace("2,0,test", "2,1,test", 1))
    with pytest.raises(UserError, match="has subject 002 in HH, IXI002-Guys-0828 lies in"):
        fed_ixi(str(ixi[0]), str(ixi[1]), str(tmp_path / "fed"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["case_ids,site_ids", "case_00000,0"], "has no column train_test_split"),
        (["case_ids,site_ids,train_test_split", "case_0,0,train"], "has the row case_0, 0, train; give FLamby's"),
        (["case_ids,site_ids,train_test_split", "case_00000,0,valid"], "has the row case_00000, 0, valid"),
        (
            ["case_ids,site_ids,train_test_split", "case_00000,0,train", "case_00000,1,train"],
            "two rows for case_00000 that disagree",
        ),
    ],
)
def test_wrong_table_is_refused(kits: tuple[Path, Path], tmp_path: Path, lines: Sequence[str], message: str) -> None:
    kits[1].write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"))


def test_folder_with_other_files_is_left_alone(kits: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "fed").mkdir()
    (tmp_path / "fed/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        fed_kits19(str(kits[0]), str(kits[1]), str(tmp_path / "fed"))


def test_command_line_fills_the_sites(kits: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--root", str(kits[0]), "--metadata", str(kits[1]), "--output_dir", str(tmp_path / "fed")]
    assert main(["datalist", "fed_kits19", *flags, "--copy", "true", "--check", "false"]) == 0
    assert read_datalist(None, tmp_path / "fed/site_0")["training"]
