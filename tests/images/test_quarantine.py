from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from monai.data import DataLoader
from monai.data.utils import no_collation
from PIL import Image

from msdino_monai.__main__ import main
from msdino_monai.errors import RadiographError, UserError
from msdino_monai.images.dataset import UsableImages
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiographd


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    """Seven usable images, three broken files."""
    root = tmp_path / "their radiographs"
    root.mkdir()
    for number in range(7):
        Image.fromarray(np.roll(picture, number, axis=0)).save(root / f"good {number}.png")
    (root / "bad,1.dcm").write_text("no image")
    (root / "bad\n2.dcm").touch()
    (root / "=bad3.png").write_bytes((root / "good 0.png").read_bytes()[:200])
    return root


@pytest.mark.parametrize("num_workers", [0, 2])
def test_run_goes_on_past_unusable_files(folder: Path, tmp_path: Path, num_workers: int) -> None:
    quarantine = Quarantine(tmp_path / "notes")
    quarantine.clear()
    items = [{"image": path.name, "number": index} for index, path in enumerate(sorted(folder.iterdir()))]
    usable = UsableImages(items, LoadRadiographd("image", img_size=32), folder, quarantine)
    loader = DataLoader(usable, batch_size=None, num_workers=num_workers, collate_fn=no_collation)
    names = [sample["file"] for sample in loader]
    assert sorted(names) == [f"good {number}.png" for number in range(7)]
    rows = {row["file"]: row for row in quarantine.rejected()}
    assert len(rows) == 3
    assert rows["bad,1.dcm"]["step"] == "open"
    assert all(row["reason"] and row["what to do"] for row in rows.values())
    assert "3 quarantined" in quarantine.summary()


def test_ranks_share_the_work(folder: Path, tmp_path: Path) -> None:
    items = [{"image": f"good {number}.png"} for number in range(7)]
    shares = [
        [
            sample["file"]
            for sample in UsableImages(
                items, LoadRadiographd("image", img_size=32), folder, Quarantine(tmp_path), rank, world_size=2
            )
        ]
        for rank in (0, 1)
    ]
    assert sorted(shares[0] + shares[1]) == [item["image"] for item in items]
    assert abs(len(shares[0]) - len(shares[1])) <= 1


def test_mistake_in_a_transform_is_not_taken_for_a_bad_file(folder: Path, tmp_path: Path) -> None:
    def wrong(_: dict[str, object]) -> dict[str, object]:
        raise KeyError("our mistake")

    with pytest.raises(RuntimeError):
        list(UsableImages([{"image": "good 0.png"}], wrong, folder, Quarantine(tmp_path)))
    assert Quarantine(tmp_path).rejected() == []


def test_rows_from_many_writers_stay_whole(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            pool.submit(quarantine.reject, f"{number}.dcm", RadiographError("open", "x" * 300, "y"))
    rows = quarantine.rejected()
    assert {row["file"] for row in rows} == {f"{number}.dcm" for number in range(200)}
    assert stat.S_IMODE(quarantine.quarantined.stat().st_mode) == 0o600


def test_survey_counts_names_and_shows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    status = main(["survey", "--dataset_dir", str(folder), "--output_dir", str(output), "--img_size", "64"])
    assert status == 3
    assert "7 of 10 files are usable; 3 quarantined" in capsys.readouterr().out
    report = json.loads((output / "survey.json").read_text())
    assert (report["usable"], report["quarantined"], sum(report["reasons"].values())) == (7, 3, 3)
    with Image.open(output / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 100


def test_survey_of_good_files_succeeds_and_forgets_old_rows(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["survey", "--dataset_dir", str(folder), "--output_dir", str(output), "--img_size", "32"]
    assert main(arguments) == 3
    for path in folder.iterdir():
        if "bad" in path.name:
            path.unlink()
    assert main(arguments) == 0
    assert not (output / "quarantine.csv").exists()


def test_survey_is_written_for_its_owner_alone(folder: Path, tmp_path: Path) -> None:
    """It shows patients; what a survey before wrote for everybody is written anew."""
    output = tmp_path / "out"
    before = os.umask(0)
    try:
        for _ in range(2):
            main(["survey", "--dataset_dir", str(folder), "--output_dir", str(output), "--img_size", "32"])
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [output, *output.iterdir()]}
            files = {"survey.json": 0o600, "contact_sheet.png": 0o600, "quarantine.csv": 0o600}
            assert modes == {"out": 0o700, **files}
            (output / "contact_sheet.png").chmod(0o644)
    finally:
        os.umask(before)


def test_flags_are_kept_where_asked_and_listed_once(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    quarantine.reject("b.dcm", RadiographError("open", "x", "y"))
    for reason in ("text", "text", "grey"):
        quarantine.flag("a.dcm", reason)
    quarantine.clear(keep_flags=True)
    assert [(row["file"], row["reason"]) for row in quarantine.suspicious()] == [("a.dcm", "text"), ("a.dcm", "grey")]
    assert quarantine.rejected() == []
    quarantine.clear()
    assert quarantine.suspicious() == []


def test_note_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "absent")
    with pytest.raises(UserError, match=r"cannot write .*quarantine\.csv: No such file"):
        quarantine.reject("a.dcm", RadiographError("open", "x", "y"))


def test_home_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quarantine = Quarantine("~/notes")
    quarantine.clear()
    assert quarantine.quarantined == tmp_path / "notes" / "quarantine.csv"
    assert not (tmp_path / "~").exists()
