"""The pretraining benchmark's original DINO step against the paper, its masked sampling against the bundle."""

from __future__ import annotations

import argparse
import json
import math
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pretraining

    return pretraining


def quickly() -> argparse.Namespace:
    on_cpu = {"quick": True, "seed": 0, "batch": 4, "rounds": 1, "threads": torch.get_num_threads()}
    on_gpu = {"gpu_batches": [2, 4], "gpu_rounds": 1, "steps_per_round": 1, "skip_compile": True}
    return argparse.Namespace(**on_cpu, **on_gpu)


def test_cpu_part_times_every_side_and_judges_the_bars(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "in_own_process", lambda *_: {"peak_mb": 2.0, "mb_before": 1.0})
    found = benchmark.measure_cpu(tmp_path, quickly())
    sides = found["sides"]
    assert sides.keys() == {str(side) for side in benchmark.CPU_SIDES}
    for side in sides.values():
        assert math.isclose(side["gflop_per_second"] * side["seconds"]["median"], side["gflop"])
        assert side["share_of_gemm_peak"] > 0
    assert sides["original DINO, float32"]["gflop"] == sides["original DINO, bfloat16"]["gflop"]
    found["amx"] = False
    bars = benchmark.bars_of({"cpu": found}, quick=False)
    assert [bar.verdict() for bar in bars][1:] == ["missed", "not judged: no AMX here"]
    benchmark.show({"cpu": found, "gpu": "No GPU here."}, bars)
    shown = capsys.readouterr().out
    assert all(name in shown for name in sides)
    assert "No GPU here." in shown


def test_memory_is_that_of_a_process_that_runs_one_side_alone(benchmark: ModuleType, tmp_path: Path) -> None:
    export = benchmark.export_for(tmp_path / "export", 40, quickly())
    held = torch.ones(600_000_000, dtype=torch.uint8)  # in this process, so not in that one
    used = benchmark.in_own_process(benchmark.Side(benchmark.ORIGINAL, "float32"), export, quickly())
    assert 0 < used["mb_before"] < used["peak_mb"]
    assert used["peak_mb"] < benchmark.high_water_mark() - len(held) / 2e6


def test_gpu_part_measures_each_side_at_each_batch_size(benchmark: ModuleType, tmp_path: Path) -> None:
    found = benchmark.measure_gpu(CPU, tmp_path, quickly())
    assert found["batches"].keys() == {"2", "4"}
    for sides in found["batches"].values():
        assert sides.keys() == {f"{method}, bfloat16" for method in found["gflop_per_image"]}
        for method, flops in found["gflop_per_image"].items():
            side = sides[f"{method}, bfloat16"]
            expected = side["images_per_second"]["median"] * flops / 1000 / found["peak_tflop_per_second"]
            assert math.isclose(side["model_flop_utilisation"], expected)


def test_gpu_part_goes_on_when_a_side_does_not_fit(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = benchmark.measure_side

    def measure_small(device: torch.device, side: Any, batch_size: int, *rest: Any) -> Any:
        if side.method == benchmark.ORIGINAL and batch_size == 4:
            raise torch.cuda.OutOfMemoryError("too small a card")
        return measure(device, side, batch_size, *rest)

    monkeypatch.setattr(benchmark, "measure_side", measure_small)
    found = benchmark.measure_gpu(CPU, tmp_path, quickly())
    assert found["batches"]["4"]["original DINO, bfloat16"] == "out of memory"
    assert found["batches"]["4"]["masked sampling, bfloat16"]["images_per_second"]["median"] > 0
    benchmark.show({"gpu": found}, benchmark.bars_of({"gpu": found}, quick=False))
    shown = capsys.readouterr().out
    assert "out of memory" in shown
    assert "no H100 or H200 here" in shown


@pytest.mark.parametrize("method", ["masked sampling", "bundle's defaults"])
def test_each_call_is_one_iteration_that_moves_student_and_teacher(
    benchmark: ModuleType, tmp_path: Path, method: str
) -> None:
    export = benchmark.export_for(tmp_path / "export", 40, quickly())
    with closing(benchmark.build(benchmark.Side(method, "float32"), 4, CPU, export, quickly())) as step:
        trainer = step.trainer
        prototypes = [branch.head.prototypes for branch in (trainer.student, trainer.teacher)]
        before = [one.detach().clone() for one in prototypes]
        for number in range(1, 4):
            step()
            assert trainer.state.iteration == number
            assert trainer.state.output["stepped"]
    assert trainer.state.iteration == 3
    for start, now in zip(before, prototypes, strict=True):
        assert not torch.equal(start, now)


@pytest.mark.parametrize("method", ["masked sampling", "bundle's defaults"])
def test_masked_sampling_is_set_as_its_name_says(benchmark: ModuleType, tmp_path: Path, method: str) -> None:
    expected = json.loads(benchmark.CONFIG.read_text())
    expected |= benchmark.LIKE_THE_ORIGINAL if method == benchmark.MASKED else {}
    export = benchmark.export_for(tmp_path / "export", 40, quickly())
    with closing(benchmark.build(benchmark.Side(method, "float32"), 4, CPU, export, quickly())) as step:
        sampling, loss = step.trainer.prepare_batch, step.trainer.loss_function
    for name in ("global_share", "local_share", "num_local"):
        assert getattr(sampling, name) == expected[name]
    for name in ("koleo_weight", "token_weight"):
        assert getattr(loss, name) == expected[name]


def test_faulty_step_ends_the_benchmark(benchmark: ModuleType, tmp_path: Path) -> None:
    export = benchmark.export_for(tmp_path / "export", 40, quickly())
    with closing(benchmark.build(benchmark.Side(benchmark.MASKED, "float32"), 4, CPU, export, quickly())) as step:
        with torch.no_grad():
            step.trainer.student.head.prototypes.fill_(torch.nan)
        with pytest.raises(RuntimeError, match="not finite"):
            step()


def test_original_loss_compares_every_crop_with_the_other_large_ones(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    loss = benchmark.PixelLoss(num_prototypes=5, num_crops=4)
    student, teacher = torch.randn(4 * 3, 5), torch.randn(2 * 3, 5)
    targets = F.softmax(teacher / 0.04, dim=-1)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    log_student = F.log_softmax(student / 0.1, dim=-1)
    terms = [-(targets[3 * t : 3 * t + 3] * log_student[3 * s : 3 * s + 3]).sum() / 3 for t, s in pairs]
    torch.testing.assert_close(loss(student, teacher), torch.stack(terms).mean())
    torch.testing.assert_close(loss.centre[0], 0.1 * teacher.mean(0))


def test_original_step_updates_the_teacher_by_a_moving_average(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    step = benchmark.OriginalStep(benchmark.Side(benchmark.ORIGINAL, "float32"), 2, CPU, quick=True)
    before = [one.clone() for one in step.teacher.parameters()]
    step()
    for old, new, student in zip(before, step.teacher.parameters(), step.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.996 * old + 0.004 * student)
    assert any(not torch.equal(old, new) for old, new in zip(before, step.teacher.parameters(), strict=True))


def test_original_attention_is_scaled_dot_product_attention(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    block = benchmark.PixelBlock(hidden_size=16, mlp_dim=32, num_heads=2, drop_path_rate=0.0)
    hidden = torch.randn(3, 7, 16)
    query, key, value = (one.unflatten(-1, (2, 8)).transpose(1, 2) for one in block.qkv(hidden).chunk(3, dim=-1))
    expected = block.projection(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block.attention(hidden), expected)


def test_small_crops_take_interpolated_positions(benchmark: ModuleType) -> None:
    network = benchmark.PixelViT(64, hidden_size=8, mlp_dim=16, num_layers=1, num_heads=2)
    assert network.positions_of(4) is network.positions
    small = network.positions_of(2)
    assert small.shape == (1, 1 + 4, 8)
    torch.testing.assert_close(small[:, 0], network.positions[:, 0])


@pytest.mark.parametrize(
    ("value", "unless", "verdict"),
    [(1.3, "", "missed"), (1.4, "", "met"), (1.6, "", "met, and the aim"), (9.0, "no AMX here", "not judged")],
)
def test_bars_say_whether_they_are_met(benchmark: ModuleType, value: float, unless: str, verdict: str) -> None:
    assert benchmark.Bar("ratio", 1.4, 1.6, value, unless).verdict().startswith(verdict)


def test_matrix_products_keep_the_best_rate(benchmark: ModuleType) -> None:
    products = benchmark.MatrixProducts("float32", CPU, [32])
    products()
    best = products.flops_per_second
    assert best > 0
    products()
    assert products.flops_per_second >= best
