"""The audit as a user runs it, and the export that asks for one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import EXPORT, as_flags, completed, export, run, workflow

from msdino_monai.errors import UserError
from msdino_monai.exporting import hash_settings
from msdino_monai.images.cohort import write_cohort
from msdino_monai.vault import TokenStore

TINY = {"img_size": 64, "embedding_dim": 16}
FEW = {"max_images": 3, "max_exported_images": 8, "max_auxiliary_images": 16, "training_steps": 2}
LENIENT = {"max_neighbour_accuracy": 1, "max_direct_position_accuracy": 1, "max_ssim_after_solver": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(str(root), sites=1, patients_per_site=20, seed=3, image_size=96)
    return root / "site_a" / "images"


@pytest.fixture(scope="module")
def audited(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs the audit in this process; the path of its `audit.json`."""

    def start(**settings: Any) -> Path:
        output_dir = tmp_path_factory.mktemp("audited") / "out"
        given = {**TINY, **FEW, **LENIENT, **settings}
        run(workflow(EXPORT, "privacy_audit.json", dataset_dir=str(images), output_dir=str(output_dir), **given))
        return output_dir / "audit.json"

    return start


@pytest.fixture(scope="module")
def passed(audited: Callable[..., Path]) -> Path:
    return audited()


def test_command_ends_with_status_1_and_one_line_where_settings_fail(images: Path, tmp_path: Path) -> None:
    config = EXPORT / "configs" / "privacy_audit.json"
    start = f"-m monai.bundle run --config_file {config} --bundle_root {EXPORT}".split()
    settings = {**TINY, **FEW, **LENIENT, "max_neighbour_accuracy": 0.0001, "embedding_dim": 256, "margin": 0}
    flags = as_flags({"dataset_dir": images, "output_dir": tmp_path / "out", **settings})
    done = completed([sys.executable, *start, *flags])
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the privacy audit FAILED: neighbouring patches put together rightly")
    assert "--max_neighbour_accuracy" in last
    assert "Traceback" not in done.stderr
    assert "jigsaw by edges: neighbours" in done.stderr, "progress is shown"
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["verdict"]["result"] == "fail"
    with pytest.raises(UserError, match="did not pass"):
        export(images, tmp_path / "export", audit=str(tmp_path / "out" / "audit.json"), embedding_dim=256, margin=0)


def test_audit_that_passed_lets_exactly_these_settings_out(passed: Path, images: Path, tmp_path: Path) -> None:
    page = json.loads(passed.read_text())
    assert page["verdict"]["result"] == "pass"
    assert page["export_sha256"] == hash_settings(page["export"])
    export(images, tmp_path / "export", require_audit="true", audit=str(passed))
    store = TokenStore(tmp_path / "export", allow_unsigned=True)
    assert len(store) == len(list(images.iterdir()))
    assert store.embedder["sha256"] == page["embedder_sha256"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"margin": 1}, "embedder.margin"),
        ({"num_views": 2}, "num_views"),
        ({"noise": 0.3}, "options.noise"),
        ({"dtype": "int8"}, "dtype"),
        ({"augment": {"_target_": "Compose", "transforms": []}}, "options.augment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_audit_of_other_settings_is_refused_by_name(
    passed: Path, images: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=f"of other settings .*{named}"):
        export(images, tmp_path / "export", require_audit=True, audit=str(passed), **change)
    assert not (tmp_path / "export").exists()


def test_export_that_requires_an_audit_gets_none(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no audit is given; run configs/privacy_audit\.json"):
        export(images, tmp_path / "export", require_audit=True)


def test_audit_by_weaker_attackers_is_refused_or_named(
    passed: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = json.loads(passed.read_text())
    old = tmp_path / "old.json"
    old.write_text(json.dumps({**page, "attackers": page["attackers"] - 1}))
    with pytest.raises(UserError, match="by attackers 1, those of now are 2"):
        export(images, tmp_path / "export", audit=str(old))
    with caplog.at_level("WARNING", "msdino_monai.export"):
        export(images, tmp_path / "export", audit=str(passed))
    assert "attacked with less than usual (max_images 3 of 12, max_exported_images 8 of 48" in caplog.text


def test_altered_or_missing_audit_is_refused(passed: Path, images: Path, tmp_path: Path) -> None:
    altered = tmp_path / "audit.json"
    altered.write_text(passed.read_text().replace('"dtype": "float16"', '"dtype": "int8"'))
    for audit in (altered, tmp_path / "none.json"):
        with pytest.raises(UserError, match=r"no audit\.json that can be used"):
            export(images, tmp_path / "export", audit=str(audit), dtype="int8")


def test_audit_attacks_what_the_export_would_write() -> None:
    """Every setting that decides what is written can be given to the audit, under the name the export has for it."""
    audit, exporting = (
        json.loads((EXPORT / "configs" / f"{name}.json").read_text()) for name in ("privacy_audit", "inference")
    )
    given = audit["audit"]["export_settings"]
    assert given.keys() <= exporting.keys()
    assert all(reference == f"@{name}" and audit[name] is None for name, reference in given.items())
    run_alone = {"bundle_root", "dataset_dir", "datalist", "output_dir", "state_dir", "site_id", "recipient"}
    run_alone |= {"signing_key", "order_recipients", "dry_run", "require_audit", "audit", "batch_size", "num_workers"}
    run_alone |= {"images_per_shard", "sections"}
    settings = {
        name for name, value in exporting.items() if not isinstance(value, dict | list) and "$" not in str(value)
    }
    assert settings - {"_desc_"} - run_alone == given.keys()


def test_every_setting_of_the_audit_stands_in_the_readme() -> None:
    config = json.loads((EXPORT / "configs" / "privacy_audit.json").read_text())
    names = [name for name, value in config.items() if not isinstance(value, dict | list) and not name.startswith("_")]
    readme = (EXPORT / "docs" / "README.md").read_text()
    assert [name for name in names if f"| `{name}` " not in readme] == []


def test_too_few_images_of_other_people_are_refused(images: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="give at least 8 with --auxiliary_dir"):
        run(workflow(EXPORT, "privacy_audit.json", dataset_dir=str(few), output_dir=str(tmp_path / "out"), **TINY))
    with pytest.raises(UserError, match="max_images must be a whole number of at least 3"):
        run(workflow(EXPORT, "privacy_audit.json", dataset_dir=str(few), output_dir="o", max_images=1))
