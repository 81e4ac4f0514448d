from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from pretraining_runs import begin, train

from msdino_monai.pretraining.curves import as_picture, feature_rank
from msdino_monai.pretraining.loss import Terms
from msdino_monai.table import as_csv

ALWAYS = [
    *("epoch", *Terms._fields, "gradient_norm", "learning_rate", "weight_decay", "teacher_momentum"),
    *("teacher_temperature", "feature_rank", "images_per_second", "seconds"),
]


def test_rank_counts_the_directions_features_point_to() -> None:
    torch.manual_seed(0)
    assert feature_rank(torch.randn(400, 8)) == pytest.approx(8, abs=0.5)
    flat = torch.randn(400, 2) @ torch.randn(2, 8)
    assert 1.2 < feature_rank(flat) < 2.1
    assert feature_rank(torch.randn(400, 1) @ torch.randn(1, 8)) == pytest.approx(1, abs=0.05)


def test_run_leaves_a_table_a_picture_and_an_event_file(export: Path, tmp_path: Path) -> None:
    train(export, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert list(rows[0]) == ALWAYS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(float(value) == float(value) for row in rows for value in row.values())
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1000
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    content = events.read_bytes()
    assert all(name.encode() in content for name in ("loss", "feature_rank", "gradient_norm"))


@pytest.mark.usefixtures("_without_picture")
def test_row_is_the_mean_of_its_iterations(export: Path, tmp_path: Path) -> None:
    from ignite.engine import Events

    flow, trainer = begin(export, tmp_path, accumulation_steps=2, token_weight=0.5)
    seen: list[tuple[Terms, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append((engine.state.output["terms"], float(engine.state.output["gradient_norm"]))),
    )
    flow.run()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    for epoch, row in enumerate(rows):
        part = seen[3 * epoch : 3 * epoch + 3]
        for name in Terms._fields:
            expected = sum(float(getattr(terms, name)) for terms, _ in part) / 3
            assert float(row[name]) == pytest.approx(expected, rel=1e-4), name
        assert float(row["gradient_norm"]) == pytest.approx(sum(norm for _, norm in part) / 2, rel=1e-4)


def test_table_has_room_for_what_comes_later() -> None:
    text = as_csv([{"epoch": 1, "loss": 0.1234567891}, {"epoch": 2, "loss": 2.0, "knn_auc": 0.5}])
    assert text == "epoch,loss,knn_auc\n1,0.123457,\n2,2,0.5\n"


def test_picture_of_a_single_epoch_and_of_gaps() -> None:
    for rows in (
        [{"epoch": 1.0, "loss": 1.0}],
        [{"epoch": 1.0, "loss": 1.0}, {"epoch": 2.0, "loss": 2.0, "knn_auc": 0.5}],
    ):
        with Image.open(io.BytesIO(as_picture(rows))) as picture:
            picture.verify()
