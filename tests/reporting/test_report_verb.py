from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from chromium import look_at
from run_folders import (
    TOKENS,
    VIEWS,
    write_audit,
    write_classification,
    write_curves,
    write_everything,
    write_export,
    write_federation,
    write_json,
    write_picture,
    write_pretraining,
    write_segmentation,
)

from msdino_monai.__main__ import main
from msdino_monai.errors import UserError
from msdino_monai.reporting.report import report
from msdino_monai.reporting.runs import find_runs


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "demo"
    root.mkdir()
    write_everything(root)
    assert main(["report", "--runs_dir", str(root)]) == 0
    return root


def words(page: Path) -> str:
    """What a reader reads."""
    html = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html.replace("<wbr>", ""))))


def section(page: Path, name: str) -> str:
    """The words from one heading to the next section's."""
    text = page.read_text(encoding="utf-8").replace("<wbr>", "")
    found = re.search(rf"<h2>{name}</h2>(.*?)</section>", text, re.DOTALL)
    assert found, name
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", found[1])))


def test_page_of_everything_shows_every_run(everything: Path) -> None:
    page = everything / "report.html"
    head = words(page).partition("The hospitals and what they send")[2].partition("The hospitals and what they send")[0]
    assert "by 2 hospitals, 8 radiographs" in head
    assert "privacy audit failed" in head
    assert "24 test images" in head
    assert "0.000 before the first" in head
    said = section(page, "The hospitals and what they send")
    assert f"{VIEWS} x {TOKENS} x 8" in said
    assert "NOT sealed" in said
    assert said.count("not verified") == 2  # the receipts are there, and say that nobody signed
    assert "no receipt" not in said
    assert "0.970" in section(page, "What an attacker sees")
    assert "auxiliary images" in section(page, "What an attacker sees")
    assert "Probes of the frozen body" in section(page, "Pretraining at the coordinator")
    learnt = section(page, "Fine-tuning, epoch by epoch")
    assert "Mean AUC on validation images" in learnt
    assert "Mean Dice on validation images" in learnt
    findings = section(page, "Findings: classification")
    metrics = json.loads((everything / "classification" / "metrics.json").read_text())
    assert f"{metrics['mean']['auc']['value']:.3f} (" in findings
    assert "pleural effusion" in findings
    assert "right lung" in section(page, "Masks: segmentation")
    assert "mass, probability 0.70" in section(page, "Where the classifier looked")
    assert "8 kB" in section(page, "Federation: round by round")
    assert "site_b" in section(page, "Federation: round by round")
    made = section(page, "Versions, seeds, hardware, commands")
    assert "cohort --output_dir 'a & b'" in made
    assert "9.9.9" in made
    assert "classification, lungs an abacus 2" in made
    assert "classification, lungs torch 8.8.8" in made
    assert "11" in made
    assert "The cohorts found here are synthetic" in words(page)
    assert "not a medical device" in words(page)
    assert "not complete" not in words(page)


def test_break_even_on_the_page_is_the_function_of_the_runs(everything: Path) -> None:
    said = section(everything / "report.html", "Traffic: one export against rounds of federation")
    image = VIEWS * TOKENS * 8 * 2
    for rounds in (1, 10, 100):
        images = (2 * rounds * 40_000 - 40_000) // image
        number = f"{images:,}".replace(",", " ")
        assert re.search(rf"break even at {rounds} rounds? {number} images per site", said), rounds


def test_page_of_everything_in_a_browser(everything: Path, tmp_path: Path) -> None:
    sight = look_at(everything / "report.html", tmp_path)
    assert sight.requests == []
    for view in sight.views:
        assert view.broken == []
        assert view.wide == []
        assert view.scroll_width <= view.width
        assert view.pictures == 12  # contact sheet, 3 of a sample, 2 of the audit, 3 overlays, 3 maps


def test_without_pictures_no_picture_goes_in(everything: Path, tmp_path: Path) -> None:
    assert (
        main(["report", "--runs_dir", str(everything), "--output_file", str(tmp_path / "p.html"), "--pictures=false"])
        == 0
    )
    html = (tmp_path / "p.html").read_text()
    assert "<img" not in html
    assert "Pictures are left out" in html


def test_patients_images_are_not_drawn_and_the_page_warns(tmp_path: Path) -> None:
    write_pretraining(tmp_path / "pretraining", probes=False)
    write_picture(tmp_path / "cohort" / "site_a" / "images" / "one.png")
    write_json(tmp_path / "cohort" / "cohort.json", {"description": "from the archive", "sites": {"site_a": {}}})
    report(str(tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert "This page may show patients" in html
    assert "<img" not in html
    assert "synthetic cohorts only" in html


def test_missing_pieces_are_said_in_one_sentence_each(tmp_path: Path) -> None:
    write_pretraining(tmp_path / "pretraining", probes=False)
    report(str(tmp_path))
    said = words(tmp_path / "report.html")
    for sentence in (
        "No survey was found",
        "No export was found",
        "No privacy audit was found",
        "ran without labelled images",
        "No fine-tuning left its curves",
        "No evaluated classification run was found",
        "No evaluated segmentation run was found",
        "No explanation maps were found",
        "No federation was found",
        "The break-even line needs an export",
        "No run here has written down its command",
    ):
        assert said.count(sentence) == 1, sentence


def test_audit_that_passed_is_no_failure(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit", "pass")
    report(str(tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert '<div class="verdict pass"' in html
    assert "EXCEEDED" not in html


def test_links_to_nothing_pipes_and_locked_files_do_not_stop_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "cohort" / "cohort.json", {"description": "SYNTHETIC"})
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "commands.txt").write_text("python\n")
    reading = Path.read_text

    def locked(path: Path, *words: Any, **named: Any) -> str:
        if path.name == "commands.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return reading(path, *words, **named)

    monkeypatch.setattr(Path, "read_text", locked)
    runs = find_runs(tmp_path)
    assert len(runs.cohorts) == 1
    assert len(runs.unreadable) == 1
    assert runs.unreadable[0].startswith("commands.txt: ")


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pretraining(tmp_path / "pretraining")
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "federated.json").write_text('{"rounds": 3')
    write_json(tmp_path / "classification" / "metrics.json", ["no object"])
    write_json(tmp_path / "audit" / "audit.json", {"rows": []})
    report(str(tmp_path))
    assert "3 files could not be read" in capsys.readouterr().out
    said = section(tmp_path / "report.html", "Versions, seeds, hardware, commands")
    assert "federation/federated.json: JSONDecodeError" in said
    assert "classification/metrics.json: it holds no JSON object" in said
    assert "audit/audit.json: it says nothing of verdict" in said


def test_cut_picture_costs_its_section_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_segmentation(tmp_path / "lungs")
    write_federation(tmp_path / "federation")
    (tmp_path / "lungs" / "overlay_best.png").write_bytes(b"\x89PNG cut")
    report(str(tmp_path))
    assert "The section 'masks' is not complete" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert "overlay_best.png is not a whole PNG" in section(page, "Masks: segmentation")
    assert "flap" in section(page, "Federation: round by round")


def test_keys_hidden_folders_and_settings_are_never_opened(tmp_path: Path) -> None:
    write_pretraining(tmp_path / "pretraining")
    for folder in ("keys", ".hidden", "federation/flare", "bundles/cxr_embedding_export/configs"):
        write_json(tmp_path / folder / "audit.json", {"verdict": {"result": "pass"}})
    assert find_runs(tmp_path).audits == []


def test_copy_of_a_model_in_a_bundle_is_not_a_second_model(tmp_path: Path) -> None:
    for folder in ("bundles/cxr_classification/models", "classification/models"):
        write_json(tmp_path / folder / "model.network.json", {"network": {"img_size": 64}, "seed": 0})
    assert [run.name for run in find_runs(tmp_path).models] == ["classification/models"]


def test_explanation_outside_its_run_is_not_shown(tmp_path: Path) -> None:
    write_picture(tmp_path / "secret.png")
    entry = {"file": "a", "probabilities": {"mass": 0.5}, "explanations": {"mass": "../secret.png"}}
    write_json(tmp_path / "findings" / "predictions.json", {"predictions": [entry]})
    report(str(tmp_path))
    assert "<img" not in (tmp_path / "report.html").read_text()


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run was found"):
        report(str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        report(str(tmp_path / "none"))


def test_audit_of_other_settings_than_the_export_is_said_to_be_one(tmp_path: Path) -> None:
    write_export(tmp_path, "hospital_a")
    write_audit(tmp_path / "audit", "pass")
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for views, told in ((VIEWS, False), (VIEWS + 1, True)):
        write_json(tmp_path / "audit" / "audit.json", {**content, "export": {"num_views": views, "num_tokens": TOKENS}})
        report(str(tmp_path))
        said = section(tmp_path / "report.html", "What an attacker sees")
        assert ("is of other settings than exports/hospital_a" in said) is told
        assert (f"num views {VIEWS + 1} here, {VIEWS} in the export" in said) is told


def test_runs_on_the_same_images_share_their_charts(tmp_path: Path) -> None:
    write_classification(tmp_path / "returned", 0)
    write_classification(tmp_path / "scratch", 1)
    write_classification(tmp_path / "others", 2, images=30)
    report(str(tmp_path))
    said = section(tmp_path / "report.html", "Findings: classification")
    assert "returned, scratch: test images, n = 24" in said
    assert "others: test images, n = 30" in said
    assert said.count("1 - specificity") == 4  # two findings on two sets of images


def test_commands_and_stages_are_shown_as_they_were_written(tmp_path: Path) -> None:
    write_json(tmp_path / "state" / "command.json", {"arguments": ["run", "--site_id=hospital a"]})
    write_json(tmp_path / "finished.json", {"stages": {"The coordinator pretrains": 93.4}})
    report(str(tmp_path))
    said = section(tmp_path / "report.html", "Versions, seeds, hardware, commands")
    assert "python -m monai.bundle run '--site_id=hospital a'" in said
    assert "The coordinator pretrains 93" in said


def test_commands_come_from_the_runs_where_nobody_kept_a_list(tmp_path: Path) -> None:
    write_curves(tmp_path / "lungs", "val_mean_dice")
    write_json(tmp_path / "other" / "run.json", {"command": "of another program"})
    report(str(tmp_path))
    said = section(tmp_path / "report.html", "Versions, seeds, hardware, commands")
    assert "python -m monai.bundle run --output_dir 'lungs'" in said
    assert "another program" not in said


def test_federation_that_gained_nothing_says_so(tmp_path: Path) -> None:
    write_federation(tmp_path / "federation")
    path = tmp_path / "federation" / "federated.json"
    content = json.loads(path.read_text())
    for start, told in ((0.0, False), (0.2, True), (0.3, True)):
        content["validation"][0]["mean"]["val_mean_dice"] = start
        write_json(path, content)
        report(str(tmp_path))
        said = section(tmp_path / "report.html", "Federation: round by round")
        assert ("is not better than its start" in said) is told
        assert (f"a mean Dice of {start:.3f} on the sites" in said) is told


def test_federation_that_stopped_says_why(tmp_path: Path) -> None:
    write_federation(tmp_path / "federation")
    path = tmp_path / "federation" / "federated.json"
    content = json.loads(path.read_text())
    why = "round 2: 0 of 2 sites answered well"
    write_json(path, {**content, "stopped": why, "complete": False, "best": None})
    report(str(tmp_path))
    assert why in section(tmp_path / "report.html", "Federation: round by round")
    write_json(path, {**content, "complete": False, "history": [], "validation": [], "traffic": []})
    report(str(tmp_path))
    assert "This federation is not finished" in section(tmp_path / "report.html", "Federation: round by round")
