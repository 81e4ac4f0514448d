from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import EXPORT, SMALL, command, export, workflow
from monai.bundle import verify_metadata, verify_net_in_out
from PIL import Image

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.exporting.images import fingerprint
from msdino_monai.exporting.keys import signing_key_in
from msdino_monai.images.cohort import write_cohort
from msdino_monai.images.quarantine import Quarantine
from msdino_monai.images.transforms import LoadRadiograph
from msdino_monai.networks import PatchEmbedding
from msdino_monai.vault import ExportState, TokenStore, read_identities, unseal, unshuffle_tokens, withdraw_patient
from msdino_monai.vault.keygen import keygen

PLAIN_VIEWS = {"augment": {"_target_": "Compose", "transforms": []}}


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of one small synthetic hospital."""
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(str(root), sites=1, patients_per_site=8, seed=3, image_size=96)
    return root / "site_a" / "images"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keygen(str(folder), "coordinator")
    keygen(str(folder), "orders")
    keygen(str(folder), "site", "hospital_a")
    public = (folder / "hospital_a_signing_key.pub").read_text()
    (folder / "trusted_sites").write_text(f"hospital_a {public}")
    return folder


def recipient(keys: Path, name: str = "coordinator") -> str:
    return (keys / f"{name}_recipient.txt").read_text().strip()


def all_bytes(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_sealed_export_reaches_the_coordinator(hospital: Path, keys: Path, tmp_path: Path) -> None:
    signing_key = keys / "hospital_a_signing_key.txt"
    export(hospital, tmp_path / "out", recipient=recipient(keys), signing_key=str(signing_key), num_views=2)
    store = TokenStore(
        tmp_path / "out",
        identity=keys / "coordinator_identity.txt",
        trusted_sites=keys / "trusted_sites",
        cache_dir=tmp_path / "cache",
    )
    count = len(list(hospital.iterdir()))
    assert store.sites == (("hospital_a", count),)
    assert (store.num_views, store.num_tokens, store.embedding_dim) == (2, 16, 16)
    tokens = store.gather(np.arange(count), np.ones(count, dtype=np.int64))
    assert tokens.shape == (count, 16, 16)
    assert np.isfinite(tokens).all()
    assert tokens.std() > 0.1


def test_kept_orders_bring_the_image_back(hospital: Path, keys: Path, tmp_path: Path) -> None:
    """Without augmentation, margin, noise or drop the un-shuffled tokens are those of the image, patch by patch."""
    settings: dict[str, Any] = {**PLAIN_VIEWS, "margin": 0, "noise": 0.0, "order_recipients": recipient(keys, "orders")}
    export(hospital, tmp_path / "out", **settings)
    state = ExportState(tmp_path / "out.state")
    store = TokenStore(tmp_path / "out", allow_unsigned=True)
    orders = {}
    for path in (tmp_path / "out.state" / "orders").iterdir():
        opened = unseal(path.read_bytes(), read_identities(keys / "orders_identity.txt"), path)
        for row in np.load(io.BytesIO(opened), allow_pickle=False):
            orders[row["image"].tobytes()] = row["orders"]
    assert len(orders) == len(store)
    embedding = PatchEmbedding(64, 16, 16)
    for index, image in enumerate(sorted(hospital.iterdir())):
        place = [id_.tobytes() for id_ in store.image_ids].index(state.salted_id(fingerprint(image), "image"))
        shuffled = store.gather(np.array([place]))
        restored = unshuffle_tokens(shuffled, orders[store.image_ids[place].tobytes()])
        expected = embedding(LoadRadiograph(64)(image)[None].as_tensor()).numpy()
        np.testing.assert_allclose(restored, expected, atol=0.01, err_msg=str(index))
        assert not np.allclose(shuffled, expected, atol=0.01)


def test_no_identifier_leaves_the_hospital(hospital: Path, tmp_path: Path) -> None:
    """Names, ids, UIDs, dates and file names of the headers occur in no byte of an unsealed export."""
    export(hospital, tmp_path / "out")
    shipped = all_bytes(tmp_path / "out")
    secrets = set()
    for path in hospital.iterdir():
        secrets |= {path.name, path.stem}
        for element in pydicom.dcmread(path):
            if element.VR in ("PN", "LO", "SH", "UI", "DA", "TM", "DT") and len(str(element.value)) >= 6:
                secrets.add(str(element.value))
    assert len(secrets) > 40
    leaked = [text for text in secrets if text.encode() in shipped]
    assert leaked == []
    salt = (tmp_path / "out.state" / "salt").read_bytes()
    assert salt not in shipped


def test_settings_that_tell_of_defences_are_sealed(hospital: Path, keys: Path, tmp_path: Path) -> None:
    export(hospital, tmp_path / "out", recipient=recipient(keys), noise=0.0625)
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert "0.0625" not in manifest
    assert "RandAffine" not in manifest
    readable = set(json.loads(manifest)) - {"format_version", "revision", "sealed", "details", "signature", "sha256"}
    assert readable == {  # as docs/threat-model.md says
        *("site_id", "counts", "shards", "tools", "embedder_sha256"),
        *("num_tokens", "kept_tokens", "embedding_dim", "num_views", "dtype"),
    }
    assert all(path.suffix == ".age" for path in (tmp_path / "out" / "shards").iterdir())


def test_what_the_hospital_keeps_is_private(hospital: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        export(hospital, tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "out.state").rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name


def test_second_run_skips_what_is_finished_and_takes_what_is_new(hospital: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    files = sorted(hospital.iterdir())
    for path in files[:5]:
        (images / path.name).write_bytes(path.read_bytes())
    export(images, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out" / "shards").iterdir()}
    for path in files[5:]:
        (images / path.name).write_bytes(path.read_bytes())
    export(images, tmp_path / "out")
    second = {path.name: path.read_bytes() for path in (tmp_path / "out" / "shards").iterdir()}
    assert first.items() <= second.items(), "what was acknowledged is not touched"
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    export(images, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest, "a run with nothing to do changes nothing"
    assert len(TokenStore(tmp_path / "out", allow_unsigned=True)) == len(files)


def test_flags_of_exported_images_outlive_the_next_run(hospital: Path, tmp_path: Path) -> None:
    """Who runs the command again must still see which of the finished images to look at."""
    notes = Quarantine(tmp_path / "out.state")
    ExportState(tmp_path / "out.state")
    notes.flag("old.dcm", "of an export that never was")
    export(hospital, tmp_path / "out")
    assert notes.suspicious() == []
    notes.flag("a.dcm", "likely burned-in text")
    export(hospital, tmp_path / "out")
    assert [row["file"] for row in notes.suspicious()] == ["a.dcm"]


@pytest.mark.parametrize(
    "change",
    [
        {"margin": 4},
        {"allow_burned_in_annotation": True},
        {"noise": 0.3},
        {"num_views": 2},
        {"dtype": "int8"},
        {"embedder_seed": 1},
        PLAIN_VIEWS,
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_into_the_same_folder_are_refused(
    hospital: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    export(hospital, tmp_path / "out")
    before = all_bytes(tmp_path / "out")
    with pytest.raises(UserError, match="settings differ"):
        unwrapped(export, hospital, tmp_path / "out", **change)
    assert all_bytes(tmp_path / "out") == before


def unwrapped(function: Any, *arguments: Any, **settings: Any) -> None:
    """MONAI wraps what a component raises; the user sees the cause."""
    try:
        function(*arguments, **settings)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or error from None


def test_patient_leaves_and_the_others_stay(hospital: Path, tmp_path: Path) -> None:
    export(hospital, tmp_path / "out")
    patient = str(pydicom.dcmread(next(hospital.iterdir())).PatientID)
    theirs = sum(str(pydicom.dcmread(path).PatientID) == patient for path in hospital.iterdir())
    arguments = ["--state_dir", str(tmp_path / "out.state"), "--output_dir", str(tmp_path / "out")]
    assert main(["withdraw", *arguments, "--patient_id", patient, "--export_again", "false"]) == 0
    export(hospital, tmp_path / "out")
    store = TokenStore(tmp_path / "out", allow_unsigned=True)
    assert len(store) == len(list(hospital.iterdir())) - theirs
    gone = {
        ExportState(tmp_path / "out.state").salted_id(fingerprint(path), "image")
        for path in hospital.iterdir()
        if str(pydicom.dcmread(path).PatientID) == patient
    }
    assert gone.isdisjoint(id_.tobytes() for id_ in store.image_ids)


def test_withdrawn_images_stay_away_from_a_datalist_that_names_nobody(hospital: Path, tmp_path: Path) -> None:
    export(hospital, tmp_path / "out")
    names = sorted(path.name for path in hospital.iterdir())
    patient = str(pydicom.dcmread(hospital / names[0]).PatientID)
    theirs = [name for name in names if str(pydicom.dcmread(hospital / name).PatientID) == patient]
    withdraw_patient(tmp_path / "out.state", tmp_path / "out", patient, signing_key_in(tmp_path / "out.state"))
    items = [{"image": name, "patient": f"pseudonym {number}"} for number, name in enumerate(names)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
    export(hospital, tmp_path / "out", datalist=str(tmp_path / "datalist.json"))
    assert len(TokenStore(tmp_path / "out", allow_unsigned=True)) == len(names) - len(theirs)


def test_withdrawal_runs_the_hospitals_own_command_again(hospital: Path, keys: Path, tmp_path: Path) -> None:
    """Even where a new version of the bundle has come, which begins with other settings."""
    bundle = Path(shutil.copytree(EXPORT, tmp_path / "bundle"))
    flags = ["--dataset_dir", hospital, "--output_dir", tmp_path / "out", "--site_id", "hospital_a"]
    small = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    assert command(bundle, *flags, *small, "--recipient", recipient(keys)).returncode == 0
    config = bundle / "configs" / "inference.json"
    defaults = json.loads(config.read_text())
    config.write_text(json.dumps({**defaults, "margin": 1, "noise": 0.5, "num_views": 2, "allow_lateral": True}))
    patient = str(pydicom.dcmread(next(hospital.iterdir())).PatientID)
    theirs = sum(str(pydicom.dcmread(path).PatientID) == patient for path in hospital.iterdir())
    arguments = ["--state_dir", str(tmp_path / "out.state"), "--output_dir", str(tmp_path / "out")]
    assert main(["withdraw", *arguments, "--patient_id", patient]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert sum(shard["images"] for shard in manifest["shards"]) == len(list(hospital.iterdir())) - theirs
    assert main(["withdraw", *arguments, "--patient_id", "unknown"]) == 1, "a mistyped patient must not look withdrawn"


def test_withdrawal_signs_with_the_key_the_export_was_given(
    hospital: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(hospital, tmp_path / "out", signing_key=str(keys / "hospital_a_signing_key.txt"))
    patient = str(pydicom.dcmread(next(hospital.iterdir())).PatientID)
    arguments = ["--state_dir", str(tmp_path / "out.state"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--patient_id", patient, "--export_again", "false"]
    assert main(["withdraw", *arguments]) == 1
    assert "is signed; give the signing key" in capsys.readouterr().err
    remembered = {"folder": str(keys), "arguments": ["run", "--signing_key=hospital_a_signing_key.txt"]}
    (tmp_path / "out.state" / "command.json").write_text(json.dumps(remembered))
    assert main(["withdraw", *arguments]) == 0
    TokenStore(tmp_path / "out", trusted_sites=keys / "trusted_sites")


def test_withdrawal_says_which_images_its_command_does_not_bring_back(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in hospital.iterdir())
    patient = str(pydicom.dcmread(hospital / names[0]).PatientID)
    theirs = [name for name in names if str(pydicom.dcmread(hospital / name).PatientID) == patient]
    others = [name for name in names if name not in theirs]
    sections = {"training": [*theirs, *others[1:]], "test": others[:1]}
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({part: [{"image": name} for name in files] for part, files in sections.items()}))
    flags = ["--dataset_dir", hospital, "--output_dir", tmp_path / "out", "--site_id", "hospital_a"]
    small = {**SMALL, "images_per_shard": 100}  # one shard a run
    flags += ["--datalist", datalist, *(part for name, value in small.items() for part in (f"--{name}", value))]
    for section in sections:
        assert command(EXPORT, *flags, "--sections", section).returncode == 0
    arguments = ["--state_dir", str(tmp_path / "out.state"), "--output_dir", str(tmp_path / "out")]
    assert main(["withdraw", *arguments, "--patient_id", patient]) == 3
    assert f"{len(others) - 1} of them did not come back" in capsys.readouterr().out
    assert command(EXPORT, *flags, "--sections", "training,test").returncode == 0
    assert len(TokenStore(tmp_path / "out", allow_unsigned=True)) == len(others)


def test_withdrawal_after_a_move_completes_the_moved_export(hospital: Path, tmp_path: Path) -> None:
    flags = ["--dataset_dir", hospital, "--output_dir", tmp_path / "out", "--site_id", "hospital_a"]
    small = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    assert command(EXPORT, *flags, *small).returncode == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out.state").rename(tmp_path / "moved.state")
    patient = str(pydicom.dcmread(next(hospital.iterdir())).PatientID)
    arguments = ["--state_dir", str(tmp_path / "moved.state"), "--output_dir", str(tmp_path / "moved")]
    assert main(["withdraw", *arguments, "--patient_id", patient]) == 0
    assert not (tmp_path / "out").exists()
    theirs = sum(str(pydicom.dcmread(path).PatientID) == patient for path in hospital.iterdir())
    assert len(TokenStore(tmp_path / "moved", allow_unsigned=True)) == len(list(hospital.iterdir())) - theirs


def test_another_image_under_an_old_name_is_exported(hospital: Path, tmp_path: Path) -> None:
    first, second = sorted(hospital.iterdir())[:2]
    for folder, source in (("a", first), ("b", second), ("c", first)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.dcm").write_bytes(source.read_bytes())
        export(tmp_path / folder, tmp_path / "out")
    assert len(TokenStore(tmp_path / "out", allow_unsigned=True)) == 2


def test_dry_run_with_broken_files_does_not_stand_in_the_way(hospital: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "good.dcm").write_bytes(next(hospital.iterdir()).read_bytes())
    (images / "broken.dcm").write_bytes(b"no image")
    os.link(images / "good.dcm", os.fsencode(images) + b"/not utf-8 \xfc.dcm")
    os.mkfifo(images / "pipe")
    before = os.umask(0o022)
    try:
        export(images, tmp_path / "out", dry_run=True)
        export(images, tmp_path / "out")
        export(images, tmp_path / "out", dry_run=True)
    finally:
        os.umask(before)
    assert len(TokenStore(tmp_path / "out", allow_unsigned=True)) == 1
    assert (tmp_path / "out.state" / "quarantine.csv").read_text().count("not a regular file") == 1


def test_state_inside_the_export_is_refused_before_a_secret_lies_there(hospital: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must not contain each other"):
        unwrapped(export, hospital, tmp_path / "out", state_dir=str(tmp_path / "out" / "state"))
    assert not (tmp_path / "out").exists()


def test_export_of_nothing_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.dcm").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image could be used"):
        unwrapped(export, tmp_path / "images", tmp_path / "out")


def test_dry_run_writes_no_export(hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(hospital, tmp_path / "out", dry_run="true")
    shown = capsys.readouterr().out
    count = len(list(hospital.iterdir()))
    export(hospital, tmp_path / "wet", dry_run="false")
    assert (tmp_path / "wet" / "manifest.json").exists()
    assert f"{count} of {count} files are usable" in shown
    assert "MB free" in shown
    assert not (tmp_path / "out").exists()


def test_dry_run_refuses_where_the_export_would(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.pdf").touch()
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"holds other files \(report\.pdf\)"):
            unwrapped(export, hospital, tmp_path / "out", dry_run=dry_run)


def export_slowly(dataset_dir: Path, output_dir: Path) -> None:
    export(dataset_dir, output_dir, images_per_shard=2, batch_size=1)


@pytest.fixture
def children() -> Any:
    """Fresh processes that need not import torch and MONAI again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bundle_runs", "msdino_monai.exporting", "test_cxr_embedding_export"])
    return context


def is_complete(images: Path, output_dir: Path) -> bool:
    """Every acknowledged shard is whole; True where all images are there, each once."""
    if not json.loads((output_dir / "manifest.json").read_text())["shards"]:
        return False
    store = TokenStore(output_dir, allow_unsigned=True, verify="full")
    state = ExportState(Path(f"{output_dir}.state"))
    expected = {state.salted_id(fingerprint(path), "image") for path in images.iterdir()}
    found = [id_.tobytes() for id_ in store.image_ids]
    assert len(found) == len(set(found))
    assert set(found) <= expected
    return len(found) == len(expected)


def test_kill_9_at_any_moment_and_the_same_command_again(tmp_path: Path, children: Any) -> None:
    images = tmp_path / "images"
    images.mkdir()
    generator, moments = np.random.default_rng(0), random.Random(0)
    for number in range(30):
        Image.fromarray(generator.integers(0, 255, (64, 64), dtype=np.uint8)).save(images / f"{number}.png")
    kills, exports = 0, 0
    while kills < 20:
        output_dir = tmp_path / f"out{exports}"
        manifest = output_dir / "manifest.json"
        child = children.Process(target=export_slowly, args=(images, output_dir))
        child.start()
        for _ in range(moments.randrange(4)):  # kill early, late and between
            before = manifest.stat().st_mtime_ns if manifest.exists() else 0
            while child.is_alive() and (not manifest.exists() or manifest.stat().st_mtime_ns == before):
                time.sleep(0.001)
        child.join(moments.uniform(0, 0.03))
        if child.is_alive():
            child.kill()
            kills += 1
        child.join(60)
        if child.exitcode == 0:
            assert is_complete(images, output_dir)
            exports += 1
        elif manifest.exists():
            is_complete(images, output_dir)
    output_dir = tmp_path / f"out{exports}"
    export_slowly(images, output_dir)
    assert is_complete(images, output_dir)


def test_all_of_pydicoms_files_go_through_the_command(pydicom_files: list[Path], tmp_path: Path) -> None:
    """Usable ones are exported, the others quarantined with a reason; status 3 says so."""
    images = tmp_path / "their files"
    images.mkdir()
    for number, path in enumerate(pydicom_files):
        (images / f"{number} {path.name}").symlink_to(path)
    flags = ["--dataset_dir", images, "--output_dir", tmp_path / "out", "--site_id", "77", "--num_workers", 2]
    result = command(EXPORT, *flags, "--embedding_dim", 32)
    assert result.returncode == 3, result.stderr[-2000:]
    rows = (tmp_path / "out.state" / "quarantine.csv").read_text().count("\n") - 1
    assert f"{rows} quarantined" in result.stdout
    store = TokenStore(tmp_path / "out", allow_unsigned=True)
    candidates = [p for p in pydicom_files if p.suffix not in (".txt", ".json")]
    assert len(store) + rows == len({fingerprint(path) for path in candidates}), "copies are exported once"
    assert len(store) > 40
    assert store.sites == (("77", len(store)),)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "o", "--site_id", "a"], "missing --dataset_dir"),
        (["--dataset_dir", "nowhere", "--output_dir", "o", "--site_id", "a"], "is not a folder"),
        (["--dataset_dir", "d", "--output_dir", "o", "--site_id", "a", "--marginn", "1"], "did you mean --margin?"),
        (["--dataset_dir", "d", "--output_dir", "o", "--site_id", "a", "--site_id", "b"], "given twice"),
        (["--dataset_dir", ".", "--output_dir", "o", "--site_id", "a", "--patch_size", "0"], "must be a whole number"),
        (["--dataset_dir", ".", "--output_dir", "o", "--site_id", "a/b"], "site_id must be letters"),
        (
            ["--dataset_dir", ".", "--output_dir", "o", "--site_id", "a", "--recipient", "age1x"],
            "not an age public key",
        ),
    ],
)
def test_wrong_settings_get_one_line(
    flags: list[str], message: str, tmp_path: Path, hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.dcm").write_bytes(next(hospital.iterdir()).read_bytes())
    result = command(EXPORT, *flags)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


def test_ranks_of_torchrun_share_one_export(hospital: Path, keys: Path, tmp_path: Path) -> None:
    flags = ["--dataset_dir", hospital, "--output_dir", tmp_path / "out", "--site_id", "hospital_a"]
    small = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")
    result = command(EXPORT, *flags, *small, "--recipient", recipient(keys), launcher=torchrun)
    assert result.returncode == 0, result.stderr[-3000:]
    store = TokenStore(
        tmp_path / "out", identity=keys / "coordinator_identity.txt", allow_unsigned=True, cache_dir=tmp_path / "cache"
    )
    state = ExportState(tmp_path / "out.state")
    assert sorted(id_.tobytes() for id_ in store.image_ids) == sorted(
        state.salted_id(fingerprint(path), "image") for path in hospital.iterdir()
    )


def test_two_writers_are_refused(hospital: Path, tmp_path: Path) -> None:
    export(hospital, tmp_path / "out")
    state = ExportState(tmp_path / "out.state")
    with state.lock_run(), pytest.raises(UserError, match="another export"):
        unwrapped(export, hospital, tmp_path / "out")


def test_coordinator_receives_and_the_hospital_checks(hospital: Path, keys: Path, tmp_path: Path) -> None:
    signing_key = keys / "hospital_a_signing_key.txt"
    export(hospital, tmp_path / "out", recipient=recipient(keys), signing_key=str(signing_key))
    arguments = ["--export_dir", tmp_path / "out", "--output_file", tmp_path / "receipt.json"]
    given = ["--identity", keys / "coordinator_identity.txt", "--trusted_sites", keys / "trusted_sites"]
    assert main(["receive", *map(str, arguments + given)]) == 0
    public = str(keys / "coordinator_signing_key.pub")
    back = ["confirm", "--receipt", str(tmp_path / "receipt.json"), "--export_dir", str(tmp_path / "out")]
    assert main(back) == 0
    assert main([*back, "--coordinator_key", public]) == 1, "an unsigned receipt proves nothing"
    signed = ["--signing_key", str(keys / "coordinator_signing_key.txt")]
    assert main(["receive", *map(str, arguments + given), *signed]) == 0
    assert main([*back, "--coordinator_key", public]) == 0
    shard = next((tmp_path / "out" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["receive", *map(str, arguments + given)]) == 1


def test_bundle_says_what_its_network_does() -> None:
    flow = workflow(EXPORT, dataset_dir=".", output_dir="o", site_id="a")
    metadata = json.loads((EXPORT / "configs" / "metadata.json").read_text())["network_data_format"]
    network = flow.parser.get_parsed_content("network_def")
    assert metadata["inputs"]["image"]["spatial_shape"] == [network.img_size] * 2
    assert metadata["outputs"]["pred"]["num_channels"] == network.num_tokens
    assert metadata["outputs"]["pred"]["spatial_shape"] == [network.embedding_dim]
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(EXPORT / "configs" / "metadata.json"),
        config_file=str(EXPORT / "configs" / "inference.json"),
        device="cpu",
    )


def test_bundle_has_the_properties_monai_requires(hospital: Path, tmp_path: Path) -> None:
    flow = workflow(EXPORT, dataset_dir=str(hospital), output_dir=str(tmp_path / "out"), site_id="a")
    flow.initialize()
    assert flow.check_properties() == []


@pytest.mark.skipif("MONAI_SCHEMA" not in os.environ, reason="MONAI_SCHEMA names no copy of MONAI's metadata schema")
def test_metadata_follows_monais_schema() -> None:
    schema = os.environ["MONAI_SCHEMA"]
    digest = hashlib.sha256(Path(schema).read_bytes()).hexdigest()
    metadata = str(EXPORT / "configs" / "metadata.json")
    verify_metadata(meta_file=metadata, filepath=schema, hash_val=digest, hash_type="sha256")


def test_every_setting_stands_in_the_readme() -> None:
    config = json.loads((EXPORT / "configs" / "inference.json").read_text())
    settings = [
        name
        for name, value in config.items()
        if not isinstance(value, (dict, list)) and not name.startswith("_") and not str(value).startswith("$")
    ]
    readme = (EXPORT / "docs" / "README.md").read_text()
    missing = [name for name in settings if f"| `{name}` " not in readme]
    assert missing == []


def test_program_that_calls_the_bundle_gets_exceptions_not_exits(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from bundle_runs import export; from pathlib import Path\n"
        "try:\n    export(Path('nowhere'), Path('o'))\nexcept Exception as error:\n    print(type(error).__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] in ("RuntimeError", "UserError")


def test_gpu_or_cpu_give_the_same_tokens() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = torch.rand(2, 1, 64, 64)
    embedding = PatchEmbedding(64, 16, 16)
    torch.testing.assert_close(embedding(image), embedding.to(device)(image.to(device)).cpu(), atol=1e-4, rtol=0)
