from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pydicom", minversion="3", reason="the benchmarks encode with pydicom 3")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TINY = {
    "cohort": "--images_per_site 1 --sites 2 --image_sizes 64",
    "export": "--images 16 --distinct 2 --png_size 64 --images_per_shard 8 --interval 0.05 --workers 0 --stage_rounds 1"
    " --dicoms 2 --dicom_rounds 1 --skip_real --synthetic_shape 96 80 --payload_images 2",
    "federated": "--work_dir work --rows flap_int8 --size tiny --image_size 32 --sites 2 --patients 3 --slices 5"
    " --rounds 1 --stacks_per_volume 1",
    "pretraining_value": "--work_dir work --seeds 0 --patients 20 --image_size 64 --img_size 32 --hospitals 1 --views 2"
    " --fine_tuning 1 --draws 1 --label_fraction 0.5 --finetune max_epochs=1 num_workers=0"
    " --train hidden_size=16 mlp_dim=32 num_layers=1 num_heads=2 num_prototypes=32 head_dim=32 batch_size=4"
    " max_epochs=1",
    "privacy_audit": "--work_dir work --patients 24 --image_size 64 --audit img_size=64 max_images=3"
    " max_exported_images=8 max_auxiliary_images=16 training_steps=2",
    "privacy_frontier": "--work_dir work --settings none --patients 20 --image_size 64 --img_size 32"
    " --attacked_patients 20 --attack_sizes 96 64 --images 3 --linked 6 --auxiliary 12 --steps 2 --skip_real"
    " --train hidden_size=16 mlp_dim=32 num_layers=1 num_heads=2 num_prototypes=32 head_dim=32 batch_size=4"
    " max_epochs=1",
    "read_dicom": "--skip_real --synthetic_shape 96 80 --rounds 5 --seconds_per_file 0",
    "site_shift": "--patients_per_site 20 --image_size 64 --img_size 32 --epochs 1 --training_seeds 0 --bootstrap 20",
    "token_ceiling": "--work_dir work --patients 20 --image_size 64 --img_size 32 --epochs 1",
    "view_bounds": "--margins 4 --views 2 --img_size 64",
    "volume_segmentation": "--sites 1 --patients_per_site 5 --epochs 1",
    "token_store": "--images 20 --tokens 4 --dim 8 --batch 8 --rounds 2",
}


def run(name: str, options: str, folder: Path) -> dict[str, object]:
    output_file = folder / "results" / f"{name}.json"
    script = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options.split(), "--output_file", str(output_file)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "no table was printed"
    return dict(json.loads(output_file.read_text()))


def test_every_benchmark_is_tried() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {*TINY, "measuring", "pretraining"}


@pytest.mark.parametrize("name", TINY)
def test_benchmark_runs_and_says_on_what(name: str, tmp_path: Path) -> None:
    page = run(name, TINY[name], tmp_path)
    assert name in str(page["command"])
    assert page["settings"]["seed"] == 0
    assert {"cpu", "cores", "torch", "numpy", "pydicom"} <= page["machine"].keys()
    assert page["results"]


def test_turns_rotate_and_ratios_are_taken_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import ratio, take_turns

    turns: list[str] = []
    seconds = take_turns({name: lambda name=name: turns.append(name) for name in "ab"}, rounds=2, warmup=1)
    assert "".join(turns) == "abbaab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert math.isclose(ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])["median"], 3.0)


def test_auc_counts_pairs_in_the_right_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import numpy as np
    from site_shift import auc

    scores = np.array([0.1, 0.4, 0.4, 0.9], dtype=np.float32)
    assert auc(scores, np.array([False, False, True, True])) == 0.875
    assert math.isnan(auc(scores, np.array([True, True, True, True])))
