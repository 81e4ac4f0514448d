"""The study's statistics and tables; and a row through the commands a user types."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"


@pytest.fixture(autouse=True)
def _study_is_importable(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(STUDY.parent))
    monkeypatch.syspath_prepend(str(STUDY))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # names as short as `table` must not stay
        if str(STUDY) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def findings(seed: int, skill: float, patients: int = 40) -> Any:
    """Two images of each patient, three findings; `skill` is how far positives score above negatives."""
    from cases import Cases

    generator = np.random.default_rng(seed)
    truth = (generator.random((2 * patients, 3)) < 0.3).astype(float)
    noise = np.random.default_rng(seed + 1000).normal(size=truth.shape)
    names = np.repeat([f"seed {seed}, p{number}" for number in range(patients)], 2)
    return Cases(names, ("a", "b", "c"), noise + skill * truth, truth)


def test_equal_arms_do_not_differ_and_a_better_arm_does() -> None:
    from paired import Pair, estimate

    same = estimate([Pair(seed, findings(seed, 1.0), findings(seed, 1.0)) for seed in range(5)], repeats=50)
    assert (same.mean, same.low, same.high, same.above) == (0, 0, 0, 0)
    better = estimate([Pair(seed, findings(seed, 2.0), findings(seed, 0.0)) for seed in range(5)], repeats=200)
    assert better.low > 0.1
    assert (len(better.values), better.above) == (5, 5)


def test_more_comparisons_widen_the_interval() -> None:
    from paired import Pair, estimate

    pairs = [Pair(seed, findings(seed, 1.0), findings(seed, 0.7)) for seed in range(5)]
    one, many = estimate(pairs, 1, 400), estimate(pairs, 10, 400)
    assert many.low < one.low < one.mean < one.high < many.high


def test_seeds_with_the_same_patients_share_their_draws() -> None:
    """Five times the same patients say no more of patients than once."""
    from paired import Single, estimate

    cases = findings(3, 1.0)
    once, often = estimate([Single(0, cases)]), estimate([Single(seed, cases) for seed in range(5)])
    others = [replace(cases, patients=np.char.add(cases.patients, f" of {seed}")) for seed in range(5)]
    apart = estimate([Single(seed, other) for seed, other in enumerate(others)])
    assert often.mean == pytest.approx(once.mean)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.15)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


def test_a_class_alone_is_a_column() -> None:
    cases = findings(3, 1.0)
    assert cases.only("b").scores().tolist() == [cases.scores()[1]]
    assert cases.only("b").classes == ("b",)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Both arms are equally good; their errors are independent. 95 % intervals should mostly hold zero."""
    from paired import Pair, estimate

    holds = 0
    for study in range(12):
        seeds = [1000 * study + 10 * number for number in range(5)]
        pairs = [Pair(seed, findings(seed, 1.0), _other_noise(findings(seed, 1.0), seed)) for seed in seeds]
        found = estimate(pairs, repeats=60)
        holds += found.low <= 0 <= found.high
    assert holds >= 9


def _other_noise(cases: Any, seed: int) -> Any:
    from cases import Cases

    noise = np.random.default_rng(seed + 5000).normal(size=cases.truth.shape)
    return Cases(cases.patients, cases.classes, noise + cases.truth, cases.truth)


def test_arms_tested_on_different_patients_are_refused() -> None:
    from paired import Pair, estimate

    with pytest.raises(ValueError, match="different images"):
        estimate([Pair(0, findings(0, 1.0), findings(0, 1.0, patients=30))], repeats=1)


def test_patients_are_drawn_with_all_their_images() -> None:
    from paired import draw_patients

    counts = draw_patients(np.array(["x", "y", "x", "z"]), 500, np.random.default_rng(3))
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.1)


def test_weighted_figures_are_those_of_the_images_repeated() -> None:
    """The slow way: repeat the rows, and ask the package's own ROC AUC."""
    from cases import Cases

    from msdino_monai.finetuning.classification.metrics import roc_auc

    generator = np.random.default_rng(0)
    cases = findings(1, 1.0)
    values, truth = cases.values.round(1), np.where(generator.random(cases.truth.shape) < 0.1, np.nan, cases.truth)
    dice = np.where(generator.random(values.shape) < 0.2, np.nan, values)
    counts = generator.integers(0, 3, (4, len(values))).astype(float)
    aucs = Cases(cases.patients, cases.classes, values, truth).weighted(counts)
    means = Cases(cases.patients, cases.classes, dice).weighted(counts)
    for row, count in enumerate(counts.astype(int)):
        for column in range(3):
            seen, said = np.repeat(truth[:, column], count), np.repeat(values[:, column], count)
            known = np.isfinite(seen)
            assert aucs[row, column] == pytest.approx(roc_auc(said[known], seen[known] >= 0.5))
            assert means[row, column] == pytest.approx(np.nanmean(np.repeat(dice[:, column], count)))


def test_link_is_made_once_and_never_to_something_else(tmp_path: Path) -> None:
    from ways import _link

    for _ in range(2):
        _link(tmp_path / "links" / "site_a", tmp_path)
    with pytest.raises(FileExistsError):
        _link(tmp_path / "links" / "site_a", tmp_path / "links")


def test_tables_of_cases_are_read_with_unknown_labels_and_empty_masks(tmp_path: Path) -> None:
    from cases import read_cases

    table = tmp_path / "findings.csv"
    table.write_text(
        "file,patient,a label,a probability,a positive\n"
        "site_a/1,p,1,0.9,1\nsite_a/2,q,0,0.2,0\nsite_a/3,r,-1,0.1,0\nsite_b/1,s,1,0.5,1\n"
    )
    read = read_cases(table)
    assert read["site_a"].scores().tolist() == [1.0]  # the third is unknown, and would have been right by chance
    assert np.isnan(read["site_b"].scores()).all()
    masks = tmp_path / "masks.csv"
    masks.write_text(
        "file,patient,class,dice\nsite_a/1,p,left,0.5\nsite_a/1,p,right,\nsite_a/2,q,left,1\nsite_a/2,q,right,0.25\n"
    )
    assert read_cases(masks)["site_a"].scores().tolist() == [0.75, 0.25]


def test_every_arm_task_and_share_is_a_row() -> None:
    from protocol import ARMS, PRIMARY, SIZES, TASKS
    from rows import name_of
    from ways import places

    protocol = SIZES["study"]
    keys = places(protocol, ARMS, TASKS, protocol.fractions)
    assert len({name_of(key) for key in keys}) == len(keys) == 3 * 3 * (6 * len(protocol.learners) + 3)
    assert len(protocol.seeds) >= 5
    assert {name for pair in PRIMARY for name in pair} <= set(ARMS)


def test_another_protocol_is_another_digest_and_seeds_are_not() -> None:
    from dataclasses import replace

    from protocol import SIZES
    from rows import digest

    protocol = SIZES["study"]
    assert digest(protocol) == digest(replace(protocol, seeds=(1,)))
    assert digest(protocol) != digest(replace(protocol, rounds=31))


def test_masks_have_lengths_of_their_own_that_change_no_other_row() -> None:
    from dataclasses import replace

    from protocol import SIZES, TASKS
    from rows import digest

    protocol = SIZES["study"]
    others = replace(protocol, masks={"epochs": {0.01: 1, 0.1: 1, 1.0: 1}})
    findings, lungs = TASKS["findings"], TASKS["lungs"]
    assert digest(protocol.of(findings)) == digest(others.of(findings))
    assert digest(protocol.of(lungs)) != digest(others.of(lungs))
    assert [protocol.of(lungs).rounds_of(fraction) for fraction in protocol.fractions] == [5, 5, 3]
    assert protocol.of(findings).rounds_of(1.0) == 10
    assert SIZES["real"].of(lungs) == SIZES["real"].of(findings)


def row_of(arm: str, seed: int = 1, score: float = 0.5, code: str = "c") -> dict[str, Any]:
    return {
        "task": "findings", "fraction": 0.1, "arm": arm, "site": "site_a", "seed": seed, "protocol_sha256": "p",
        "code_sha256": code, "scores": {"site_a": {"mean": score}},
    }  # fmt: skip


def test_rows_of_earlier_sittings_stay_and_are_not_replaced_silently() -> None:
    from earlier import join

    before = [row_of("local"), row_of("fedavg")]
    assert join(before, [row_of("msdino"), row_of("local", code="d")]) == [
        row_of("fedavg"), row_of("msdino"), row_of("local", code="d"),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match=r"--replace takes the new ones:\nfindings, 0\.1, local, site_a, 1$"):
        join(before, [row_of("local", score=0.5000001)])
    with pytest.raises(SystemExit, match=r"local, site_a, 1 \(made by other code\)"):
        join(before, [row_of("local", score=0.7, code="d")])
    assert join(before, [row_of("local", score=0.7)], replace=True) == [row_of("fedavg"), row_of("local", score=0.7)]


def test_result_files_of_another_protocol_or_none_are_refused(tmp_path: Path) -> None:
    from earlier import published

    path = tmp_path / "study.json"
    with pytest.raises(SystemExit, match="no result file"):
        published(path, {"findings": "p"})
    path.write_text("{")
    with pytest.raises(SystemExit, match="no result file"):
        published(path, {"findings": "p"})
    path.write_text(json.dumps({"results": {"rows": [row_of("local")]}}))
    assert published(path, {"findings": "p"}) == [row_of("local")]
    with pytest.raises(SystemExit, match="rows of another protocol; give the --size"):
        published(path, {"findings": "another"})


def test_scores_must_follow_from_what_is_kept(tmp_path: Path) -> None:
    from said import check, read, without_names, write

    cases = without_names(findings(0, 1.0), "site_a")
    assert sorted(set(cases.patients))[:2] == ["site_a/000000", "site_a/000001"]
    row = {**row_of("local"), "scores": {"site_a": dict(zip(cases.classes, cases.scores(), strict=True))}}
    said = {("findings", 0.1, "local", "site_a", 1): {"site_a": cases}}
    check([row], said)
    with pytest.raises(SystemExit, match="do not follow"):
        check([{**row, "scores": {"site_a": {"a": 0.5, "b": 0.5, "c": 0.5}}}], said)
    with pytest.raises(SystemExit, match="is not kept"):
        check([{**row, "seed": 2}], said)
    write(tmp_path, said)
    path = tmp_path / "findings_0.1.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SystemExit, match=r"findings_0\.1\.npz is damaged"):
        read(tmp_path)


def test_what_models_said_is_kept_and_read_again(tmp_path: Path) -> None:
    from dataclasses import replace

    from cases import Cases
    from said import read, write

    unknown = findings(0, 1.0)
    unknown.truth[0, 1] = np.nan
    masks = Cases(unknown.patients, ("right", "left"), np.full((80, 2), np.nan))
    masks.values[::2] = 0.25
    said = {
        ("findings", 0.01, "local", "site_a", 1): {"site_a": unknown, "site_d": findings(1, 1.0)},
        ("findings", 0.01, "local", "site_a", 2): {"site_a": findings(2, 1.0)},
        ("findings", 0.01, "fedavg", "all", 1): {"site_a": replace(unknown, values=unknown.values + 1)},
        ("lungs", 1.0, "local", "site_a", 1): {"site_a": masks},
    }
    write(tmp_path, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings_0.01.npz", "lungs_1.npz"]
    again = read(tmp_path)
    assert again.keys() == said.keys()
    for key, tested in said.items():
        assert again[key].keys() == tested.keys()
        for where, cases in tested.items():
            found = again[key][where]
            assert tuple(found.patients) == tuple(cases.patients)
            assert found.classes == tuple(cases.classes)
            np.testing.assert_allclose(found.values, cases.values, rtol=1e-6)
            np.testing.assert_array_equal(found.scores(), cases.scores())
    other = {("findings", 0.01, "fedavg", "all", 1): {"site_a": findings(5, 1.0)}}
    with pytest.raises(ValueError, match="different images of site_a"):
        write(tmp_path, {**said, **other})


def test_published_scores_follow_from_what_the_models_said() -> None:
    from earlier import published
    from protocol import SIZES, TASKS
    from rows import digest
    from said import check, folder_of, key_of, read

    path = STUDY.parents[1] / "docs" / "benchmarks" / "study.json"
    rows = published(path, {name: digest(SIZES["study"].of(task)) for name, task in TASKS.items()})
    said = read(folder_of(path))
    check(rows, said)
    assert {key_of(row) for row in rows} == said.keys()


def test_arms_that_move_about_as_much_stand_side_by_side() -> None:
    from plot import NOTHING, side_by_side

    places = side_by_side({"c": 1e8, "none": 0, "nothing": 0, "b": 1e6, "a": 1e6})
    assert places == {"none": NOTHING, "nothing": 1.25 * NOTHING, "b": 1e6, "a": 1.25e6, "c": 1e8}


def test_row_says_how_it_was_made_and_is_made_once(tmp_path: Path) -> None:
    words = [sys.executable, str(STUDY), "--work_dir", "work", "--size", "small", "--workers", "1"]
    words += ["--arms", "local", "--tasks", "findings", "--output_file", "study.json"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "study.json").read_text())["results"]["rows"]
    assert (row["arm"], row["site"], row["fraction"], row["seed"]) == ("local", "site_a", 1.0, 1)
    assert set(row["scores"]) == {"site_a", "site_c"}
    assert row["cost"]["wire_bytes"] == 0 < row["cost"]["client_cpu_seconds"]
    assert (tmp_path / "study.png").stat().st_size > 10_000
    written = tmp_path / "work" / "seed_1" / "models" / "findings_1_local_site_a" / "row.json"
    before = written.stat().st_mtime_ns
    again = run("--compared_with", "study.json")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "1 rows have the same scores" in again.stdout
    page = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.png").unlink()
    tables = run("--tables_only")
    assert tables.returncode == 0, tables.stderr[-2000:]
    assert json.loads((tmp_path / "study.json").read_text()) == page
    assert (tmp_path / "study.png").exists()
    assert written.stat().st_mtime_ns == before

    written.write_text(json.dumps({**json.loads(written.read_text()), "protocol_sha256": "other"}))
    refused = run()
    assert refused.returncode == 1
    assert "another protocol" in refused.stderr
    assert run("--arms", "nobody").returncode == 2


def test_a_row_that_fails_does_not_keep_others_from_being_made(capsys: pytest.CaptureFixture[str]) -> None:
    from commands import work_through

    made: list[str] = []

    def fail() -> None:
        raise RuntimeError("status 1; see the end of log.txt")

    jobs = {"one": lambda: made.append("one"), "two": fail, "three": lambda: made.append("three")}
    with pytest.raises(SystemExit, match=r"run again to repeat them\.\ntwo: status 1; see the end of log\.txt$"):
        work_through(jobs, 1)
    assert made == ["one", "three"]
    assert "3 of 3 rows, 0 min: three" in capsys.readouterr().out
    assert work_through({str(number): lambda number=number: number for number in range(9)}, 3) == list(range(9))


def test_who_interrupts_does_not_wait_for_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    import commands

    begun = threading.Event()
    made: list[str] = []

    def interrupted(_: object) -> None:
        begun.wait()
        raise KeyboardInterrupt

    def first() -> None:
        begun.set()
        time.sleep(0.2)
        made.append("first")

    monkeypatch.setattr(commands, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commands.work_through({"first": first, "second": lambda: made.append("second")}, 1)
    assert made == ["first"]


def test_ablation_shares_exports_and_counts_hospitals(tmp_path: Path) -> None:
    from ablation import arm_of

    def run(*variants: str) -> dict[str, Any]:
        words = [sys.executable, str(STUDY / "ablation.py"), "--work_dir", "work", "--size", "small", "--seeds", "1"]
        words += ["--variants", *variants, "--output_file", "ablation.json"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(json.loads((tmp_path / "ablation.json").read_text())["results"])

    run("1 hospital, as many steps", "centring")
    found = run("as the study")  # what lies there stays in the table
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == ["as the study", "centring", "1 hospital, as many steps"]
    assert [path.name for path in (tmp_path / "work" / "seed_1" / "exports").iterdir()] == ["msdino"]
    joined = tmp_path / "work" / "seed_1" / "joined"
    assert [len(list((joined / str(arm_of(name).backbone)).iterdir())) for name in rows] == [2, 2, 1]
    log = (tmp_path / "work" / "seed_1" / "bodies" / "ablation_1_hospital_as_many_steps" / "log.txt").read_text()
    assert "--max_epochs 2" in log  # twice as many for half of the images
    for entry in found["table"]:  # the probes that lie there say again what the bundle has reported
        for probe in ("linear", "knn"):
            reported = [scores[probe] for scores in rows[entry["variant"]]["scores"].values()]
            assert entry[probe]["mean"] == pytest.approx(np.mean(reported))
    first, second, _ = found["table"]
    assert "linear_difference" not in first
    assert second["linear"]["mean"] - first["linear"]["mean"] == pytest.approx(second["linear_difference"]["mean"])


def test_longer_learning_is_held_against_learning_alone_as_long(tmp_path: Path) -> None:
    words = [sys.executable, str(STUDY / "longer.py"), "--work_dir", "work", "--size", "small", "--seeds", "1"]
    words += ["--arms", "msdino", "--epochs", "1", "2", "--output_file", "longer.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, third, fourth = json.loads((tmp_path / "longer.json").read_text())["results"]["table"]
    assert [(entry["arm"], entry["epochs"]) for entry in (first, second, third, fourth)] == [
        *(("local", 1), ("local", 2), ("msdino", 1), ("msdino", 2))
    ]
    assert "longest" not in first
    gap = third["own"]["mean"] - second["own"]["mean"]
    assert third["longest"]["mean"] == pytest.approx(gap)
    assert third["as_long"]["mean"] == pytest.approx(third["own"]["mean"] - first["own"]["mean"])
    log = (tmp_path / "work" / "seed_1" / "longer" / "msdino_2_site_a" / "log.txt").read_text()
    assert "--warmup_epochs 0.2" in log


def test_every_variant_changes_settings_that_there_are() -> None:
    from ablation import VARIANTS, arm_of, slug

    bundles = STUDY.parents[1] / "bundles"
    known = {
        "export": [bundles / "cxr_embedding_export" / "configs" / "inference.json"],
        "pretraining": [
            bundles / "cxr_msdino_pretraining" / "configs" / f"{name}.json" for name in ("train", "demonstration")
        ],
    }
    assert len({slug(name) for name in VARIANTS}) == len(VARIANTS)
    for name in VARIANTS:
        arm = arm_of(name)
        for part, files in known.items():
            config = {key: value for file in files for key, value in json.loads(file.read_text()).items()}
            for setting, value in getattr(arm, part).items():
                place = config
                for step in setting.split("#"):
                    place = place[int(step) if step.isdecimal() else step]
                assert place != value or setting == "stop_on_collapse", f"{name} changes nothing"


def test_federations_are_held_against_learning_alone(tmp_path: Path) -> None:
    words = [sys.executable, str(STUDY / "federation.py"), "--work_dir", "work", "--modes", "decoder", "--transports"]
    words += ["int8", "--numbers_of_sites", "2", "--size", "tiny", "--image_size", "32", "--patients", "4", "--slices"]
    words += ["5", "--rounds", "1", "--stacks_per_volume", "1", "--output_file", "grid.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "grid.json").read_text())["results"]
    assert [(entry["strategy"], entry["sites"]) for entry in found["table"]] == [("alone", 1), ("fedavg", 2)]
    federated = found["table"][1]
    assert len(federated["gains"]) == 2
    assert 0 < federated["tensor_bytes_up"] < federated["wire_bytes_up"]
    assert federated["tensor_bytes_down"] > 0
    for changed in ("--learning_rate", "--rounds", "--patients"):
        again = subprocess.run([*words, changed, "7"], cwd=tmp_path, capture_output=True, text=True)
        assert again.returncode == 1, changed
        assert "other settings" in again.stderr


def test_dice_is_of_the_volumes_that_have_the_class(tmp_path: Path) -> None:
    from federation import dice_of

    header = "file,patient,class,dice,truth_voxels\n"
    lines = [
        "a/1,1,kidney,0.8,10",
        "a/1,1,tumour,0.0,0",
        "a/2,2,kidney,0.6,10",
        "a/2,2,tumour,,0",
        "b/3,3,tumour,0.5,3",
    ]
    (tmp_path / "cases.csv").write_text(header + "\n".join(lines) + "\n")
    found = dice_of(tmp_path / "cases.csv")
    assert found["a"] == {"kidney": pytest.approx(0.7), "tumour": None}  # what was drawn where nothing is, is left out
    assert found["b"] == {"kidney": None, "tumour": 0.5}


def test_gain_is_that_of_the_same_hospital_seed_and_parts() -> None:
    from federation import summarise

    def row(strategy: str, sites: tuple[str, ...], dice: dict[str, float], seed: int = 1) -> dict[str, Any]:
        sent = {"tensor": 1, "wire": 2}
        cost = {
            "site_cpu_seconds": 1.0,
            "peak_mb": 1.0,
            "resumed": False,
            "bytes": {"to_server": sent, "to_site": sent},
        }
        found = {site: {"kidney": value, "tumour": None} for site, value in dice.items()}
        return {
            **{"mode": "flap", "transport": "fp32", "strategy": strategy, "sites": sites, "seed": seed},
            **{"dice": found, **cost},
        }

    alone = [row("alone", ("a",), {"a": 0.5, "b": 0.1}), row("alone", ("b",), {"a": 0.2, "b": 0.6})]
    both = row("flap", ("a", "b"), {"a": 0.6, "b": 0.5, "c": 0.9})
    first, second = summarise([*alone, both, {**both, "seed": 2}])
    assert first["dice"] == pytest.approx(0.55)  # each on its own patients
    assert second["dice"] == pytest.approx(0.55)  # the third hospital did not take part
    assert second["gains"] == pytest.approx([0.1, -0.1])  # nobody learnt alone with the second seed
    assert second["tumour"] is None


def test_every_choice_of_a_federation_is_crossed() -> None:
    from federation import MODES, TRANSPORTS, ways

    names = [way.name for way in ways(MODES, TRANSPORTS, [3, 2])]
    assert len({*names}) == len(names) == 3 * 6 + 2 * 3 * (3 + 6)


def test_rows_of_federations_made_before_stay_in_the_table(tmp_path: Path) -> None:
    import argparse

    from federation import LENGTHS, OF_THE_BUNDLE, rows_there, settings_of

    arguments = argparse.Namespace(work_dir=tmp_path, seeds=[1], hospitals=3)
    vars(arguments).update(dict.fromkeys((*LENGTHS, *OF_THE_BUNDLE), 1))
    names = ("flap_alone_none_site_c", "flap_flap_int8_site_a_site_b_site_c", "lora_fedavg_bf16_site_a_site_b")
    for name in (*names, "of_another_study"):
        (tmp_path / "seed_1" / "rows" / name).mkdir(parents=True)
        row = {"name": name, "settings": settings_of(arguments)}
        (tmp_path / "seed_1" / "rows" / name / "row.json").write_text(json.dumps(row))
    assert [row["name"] for row in rows_there(arguments)] == list(names)
    arguments.rounds = 2
    with pytest.raises(SystemExit, match="other settings"):
        rows_there(arguments)


def test_cost_of_what_went_on_after_a_kill_is_not_averaged(tmp_path: Path) -> None:
    from commands import Cost, once
    from table import _costs

    def work(_: Path) -> Cost:
        return Cost(cpu_seconds=1.0)

    (tmp_path / "killed").mkdir()
    (tmp_path / "anew").mkdir()
    assert not once(tmp_path / "fresh", work).resumed
    assert once(tmp_path / "killed", work).resumed
    assert not once(tmp_path / "anew", work, anew=[tmp_path / "anew"]).resumed
    about = {"task": "findings", "fraction": 0.1, "arm": "local"}
    rows = [
        {**about, "cost": {"client_cpu_seconds": 100.0}},
        {**about, "cost": {"client_cpu_seconds": 3.0, "resumed": True}},
    ]
    assert next(_costs(rows))["client_cpu_seconds"] == 100


def test_an_export_moves_less_up_to_the_images_that_are_said(tmp_path: Path) -> None:
    words = [sys.executable, str(STUDY / "break_even.py"), "--output_file", "even.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "even.png").exists()
    found = json.loads((tmp_path / "even.json").read_text())["results"]
    row, moved = found["rows"][0], found["moved_bytes"]
    assert (row["views"], row["dtype"]) == (1, "float16")
    assert row["record_bytes"] == 196 * 64 * 2 + 20  # tokens of 224 px, dimensions, bytes; and the image's number
    blocks = 12 * (4 * 384**2 + 2 * 384 * 1536 + 9 * 384 + 1536)  # attention, MLP; biases and norms
    assert moved["body"] == pytest.approx(4 * blocks, rel=0.01)
    assert moved["body"] < moved["round"] < 1.01 * moved["body"]  # a head and position codes
    federation = 20 * moved["round"]
    assert row["images"]["10"] * row["record_bytes"] + moved["body"] <= federation
    assert (row["images"]["10"] + 1) * row["record_bytes"] + moved["body"] > federation


def test_real_study_keeps_nothing_of_the_demonstration() -> None:
    from protocol import SIZES

    real = SIZES["real"]
    demonstration = json.loads(
        (STUDY.parents[1] / "bundles/cxr_msdino_pretraining/configs/demonstration.json").read_text()
    )
    assert {*demonstration} - {"_desc_"} <= {*real.body, *real.pretraining}


def test_hours_count_each_body_once_and_each_learner(tmp_path: Path) -> None:
    from dataclasses import replace

    from hours import fine_tuning_flops, operations
    from protocol import ARMS, SIZES, Protocol

    protocol = replace(SIZES["real"], hospitals=("a", "b"), learners=("a",))
    images, cost = {"a": 100, "b": 50}, {"msdino": 1e6, "central": 1e3, "fine_tuning": 1.0}
    assert operations(protocol, ["local"], [0.1], images, cost) == 30 * 0.1 * 100
    assert operations(protocol, ["fedavg"], [0.1], images, cost) == 30 * 0.1 * 150
    bodies = 20 * 150 * 1e6  # `msdino_fedavg` begins with the body of `msdino`
    tuned = 30 * 0.1 * (100 + 150)
    assert operations(protocol, ["msdino", "msdino_fedavg"], [0.1], images, cost) == bodies + tuned
    assert ARMS["central"].backbone == "central"
    at_home = 20 * 150 * 1e3  # the learner's own body, in as many steps as everybody's
    assert operations(protocol, ["home"], [0.1], images, cost) == at_home + 30 * 0.1 * 100
    # Two operations a multiplication, three times the forward pass, and every weight of the blocks once a token.
    small = replace(Protocol(), img_size=32)
    weights = 4 * (4 * 128**2 + 2 * 128 * 512)
    assert fine_tuning_flops(small, 3) == pytest.approx(6 * weights * 5, rel=0.2)
    words = [sys.executable, str(STUDY / "hours.py"), "--images", "a=100", "b=50", "--output_file", "hours.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *_, last = json.loads((tmp_path / "hours.json").read_text())["results"]["rows"]
    assert 0 < first["gpu_hours"] < last["gpu_hours"]


def test_classes_of_two_data_sets_are_brought_together(tmp_path: Path) -> None:
    one = {"classes": ["Effusion", "Mass"], "training": [{"image": "1.png", "label": [1, 0], "patient": "p"}]}
    other = {"classes": ["Mass", "Pleural Effusion"], "test": [{"image": "2.png", "label": [0, -1]}]}
    script = [sys.executable, str(STUDY / "share_classes.py"), "--same", "Effusion=Pleural Effusion"]
    for name, content in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.json").write_text(json.dumps(content))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*script, *words], cwd=tmp_path, capture_output=True, text=True)

    done = run("--classes", "Mass,Effusion", "--", "one/all.json", "other/all.json")
    assert done.returncode == 0, done.stderr
    shared = [json.loads((tmp_path / name / "datalist.json").read_text()) for name in ("one", "other")]
    assert shared[0] == {
        "classes": ["Mass", "Effusion"],
        "training": [{"image": "1.png", "label": [0, 1], "patient": "p"}],
    }
    assert shared[1]["test"] == [{"image": "2.png", "label": [0, -1]}]
    refused = run("--classes", "Hernia", "--", "one/all.json")
    assert refused.returncode == 1
    assert refused.stderr.strip() == "one/all.json: has no class 'Hernia' but Effusion, Mass."


def test_joined_datalists_keep_hospitals_apart(tmp_path: Path) -> None:
    from protocol import SIZES
    from ways import Seed

    for site in ("site_a", "site_b", "site_c"):
        (tmp_path / "given" / site).mkdir(parents=True)
        items = [{"image": f"{patient}.png", "label": [0], "patient": patient, "lungs": "m.png"} for patient in "789"]
        content = {"classes": ["a"], "training": items, "validation": items, "test": items}
        (tmp_path / "given" / site / "datalist.json").write_text(json.dumps(content))
    seed = Seed(SIZES["small"], tmp_path / "seed_1", 1, tmp_path / "given")
    pooled = seed.pooled(1.0)
    assert [item["patient"] for item in pooled["training"]] == [
        f"site_{site}/{number}" for site in "ab" for number in "789"
    ]
    assert pooled["training"][3] == {
        "image": "site_b/7.png",
        "label": [0],
        "patient": "site_b/7",
        "lungs": "site_b/m.png",
    }
    assert pooled["classes"] == ["a"]
    assert "test" not in pooled  # nobody learns from what is tested on


def test_masks_warm_up_for_a_tenth_of_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ways
    from commands import Cost
    from protocol import ARMS, SIZES, TASKS

    commands: list[list[str]] = []

    def run(command: list[str], _: Path) -> Cost:
        commands.append(command)
        return Cost()

    monkeypatch.setattr(ways, "run", run)
    monkeypatch.setattr(ways.Seed, "prepare", lambda _: None)
    seed = ways.Seed(SIZES["study"], tmp_path / "seed_1", 1)
    for task, fraction, expected in (("lungs", 1.0, 0.3), ("lesions", 0.1, 2.5), ("findings", 1.0, None)):
        seed.learn(ARMS["local"], TASKS[task], tmp_path / f"{task} {fraction}", "site_a", fraction)
        words = commands[-1]
        given = float(words[words.index("--warmup_epochs") + 1]) if "--warmup_epochs" in words else None
        assert given == (expected and pytest.approx(expected))
        assert "--warmup_share" not in words


def test_who_pools_has_the_labels_that_hospitals_learn_from_alone(tmp_path: Path) -> None:
    from protocol import SIZES
    from ways import Seed

    from msdino_monai.finetuning import few_labels

    alone = []
    for site in ("site_a", "site_b", "site_c"):
        (tmp_path / "given" / site).mkdir(parents=True)
        items = [{"image": f"{number}.png", "label": [number % 3 == 0], "patient": f"{number}"} for number in range(40)]
        content = {"classes": ["a"], "training": items, "validation": items, "test": items}
        (tmp_path / "given" / site / "datalist.json").write_text(json.dumps(content))
        alone += [f"{site}/{item['image']}" for item in few_labels(items, 0.1, 7)]
    pooled = Seed(SIZES["small"], tmp_path / "seed_7", 7, tmp_path / "given").pooled(0.1)
    assert [item["image"] for item in pooled["training"]] == alone[:8]
    assert len(pooled["validation"]) == 80


@pytest.mark.parametrize(
    ("site", "expected"), [("site_a", ["site_a", "site_d"]), ("all", ["site_a", "site_b", "site_d"])]
)
def test_a_model_is_tested_where_it_learnt_and_where_nobody_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str, expected: list[str]
) -> None:
    import ways
    from commands import Cost
    from protocol import TASKS, Protocol

    for name in ("site_a", "site_b", "site_c", "site_d"):
        (tmp_path / "given" / name).mkdir(parents=True)
        content = {"classes": ["a"], "test": [{"image": "1.png", "label": [0], "patient": "7"}]}
        (tmp_path / "given" / name / "datalist.json").write_text(json.dumps(content))
    commands: list[list[str]] = []

    def run(command: list[str], _: Path) -> Cost:
        commands.append(command)
        return Cost()

    monkeypatch.setattr(ways, "run", run)
    seed = ways.Seed(Protocol(), tmp_path / "seed_1", 1, tmp_path / "given")
    seed.test(TASKS["lungs"], tmp_path / "model.pt", tmp_path / "test", Protocol().tested_on(site))
    datalist = Path(commands[0][commands[0].index("--datalist") + 1])
    tested = json.loads(datalist.read_text())["test"]
    assert [item["image"].split("/")[0] for item in tested] == expected


def test_who_pools_sends_the_images_that_have_labels(tmp_path: Path) -> None:
    from commands import Cost
    from protocol import ARMS, SIZES
    from rows import cost
    from ways import Seed

    for site in ("site_a", "site_b", "site_c"):
        folder = tmp_path / "given" / site
        (folder / "train").mkdir(parents=True)
        for number in range(4):
            (folder / "train" / f"{number}.png").write_bytes(b"0" * 1000)
        items = [{"image": f"train/{number}.png", "label": [0], "patient": str(number)} for number in range(3)]
        content = {"classes": ["a"], "training": items[:2], "validation": items[2:], "test": items[2:]}
        (folder / "datalist.json").write_text(json.dumps(content))
    seed = Seed(SIZES["small"], tmp_path / "seed_1", 1, tmp_path / "given")
    for fraction, sent in ((1.0, 2000), (0.1, 200)):
        found = cost(SIZES["small"], seed, ARMS["pooled"], "all", fraction, tmp_path, Cost(cpu_seconds=8.0))
        assert found["wire_bytes"] == sent
        assert (found["server_cpu_seconds"], found["client_cpu_seconds"]) == (8.0, 0.0)


def test_body_made_at_home_is_of_its_images_in_as_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ways
    from commands import Cost
    from protocol import ARMS, SIZES
    from rows import cost

    asked: list[list[str]] = []
    monkeypatch.setattr(ways, "run", lambda command, _: asked.append(command) or Cost(cpu_seconds=100.0, peak_mb=9.0))
    seed = ways.Seed(SIZES["study"], tmp_path / "seed_1", 1, given=tmp_path / "sites")
    for site, count in {"site_a": 2, "site_b": 4, "site_c": 2, "site_d": 1}.items():
        items = [{"image": f"{number}.png", "label": [0], "patient": str(number)} for number in range(count)]
        (tmp_path / "sites" / site).mkdir(parents=True)
        content = {"training": items, "validation": [], "test": []}
        (tmp_path / "sites" / site / "datalist.json").write_text(json.dumps(content))
    models = {site: seed.pretrain(ARMS["home"], site)[0] for site in ("site_a", "site_b")}
    seed.pretrain(ARMS["home"], "site_a")  # made before
    seed.pretrain(ARMS["central"])
    assert len(set(models.values())) == 2
    of_a, of_b, central = (dict(itertools.pairwise(command)) for command in asked)
    assert [path.name for path in Path(of_a["--dataset_dir"]).iterdir()] == ["site_a"]
    counted = ("--max_epochs", "--warmup_epochs", "--frozen_prototype_epochs")
    assert [of_a[name] for name in counted] == ["24", "8", "4"]  # a quarter of the images
    assert [of_b[name] for name in counted] == ["12", "4", "2"]
    assert sorted(path.name for path in Path(central["--dataset_dir"]).iterdir()) == ["site_a", "site_b", "site_c"]
    assert central.keys().isdisjoint(counted)

    found = cost(SIZES["study"], seed, ARMS["home"], "site_a", 0.1, tmp_path, Cost(cpu_seconds=50.0, peak_mb=5.0))
    assert (found["wire_bytes"], found["tensor_bytes"], found["rounds"]) == (0, 0, 0)
    assert (found["client_cpu_seconds"], found["server_cpu_seconds"], found["peak_mb"]) == (150.0, 0.0, 9.0)


def test_export_of_several_shards_is_made_again(tmp_path: Path) -> None:
    from protocol import SIZES, Arm
    from ways import Seed

    from msdino_monai.vault import TokenStore

    arm = Arm("cut", "in several shards", backbone="cut", export={"images_per_shard": 2, "noise": 0.2})

    def read(folder: str) -> tuple[list[str], Any]:
        """Names of the shards, which order them, and tokens in the order a training meets them."""
        seed = Seed(SIZES["small"], tmp_path / folder, 1, tmp_path / "cohort")
        export, _ = seed.export(arm, "site_a")
        identity = tmp_path / folder / "keys" / "coordinator_identity.txt"
        store = TokenStore(export, identity=identity, allow_unsigned=True, cache_dir=tmp_path / folder / "cache")
        return sorted(path.name for path in (export / "shards").iterdir()), store.gather(range(len(store)))

    words = ["cohort", "--output_dir", "cohort", "--sites", "3", "--patients_per_site", "10", "--image_size", "64"]
    subprocess.run([sys.executable, "-m", "msdino_monai", *words], cwd=tmp_path, check=True, capture_output=True)
    (names, tokens), again = read("once"), read("again")
    assert len(names) > 2
    assert again[0] == names
    assert np.array_equal(again[1], tokens)

    # Killed after its first shard: what goes on would draw other numbers, so it begins anew.
    begun = tmp_path / "again"
    (begun / "exporting" / "cut" / "site_a" / "cost.json").unlink()
    export = begun / "exports" / "cut" / "site_a"
    (export / "manifest.json").unlink()
    for shard in sorted((export / "shards").iterdir())[1:]:
        shard.unlink()
    killed = read("again")
    assert killed[0] == names
    assert np.array_equal(killed[1], tokens)
