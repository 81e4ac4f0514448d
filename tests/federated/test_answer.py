from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from msdino_monai.federated.answer import Answer, mean_metrics, read_answer
from msdino_monai.federated.transport import pack, zeros

EXPECTED = {"w": torch.ones(3, 4), "b": torch.ones(4)}
REPORT = {"round": 2, "held": 2, "images": 8, "validation_images": 4, "metrics": {"dice": 0.5}, "seconds": 3.5}


def read(tensors: dict[str, torch.Tensor], report: Any, transport: str = "fp32") -> Answer:
    message = SimpleNamespace(meta={"msdino": report}, params={"tensors": pack(tensors, transport)[0]})
    return read_answer(message, 2, "train", transport, EXPECTED, zeros(EXPECTED))


def test_good_answer_is_read_whole() -> None:
    answer = read(EXPECTED, REPORT)
    assert answer.error is None
    assert answer.tensors is not None
    assert torch.equal(answer.tensors["w"], EXPECTED["w"])
    assert (answer.images, answer.validation_images, answer.metrics) == (8, 4, {"dice": 0.5})
    assert (answer.seconds, answer.tensor_bytes) == (3.5, 64)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "12 s", None, [1]])
def test_seconds_that_are_no_number_cost_nothing_else(seconds: Any) -> None:
    answer = read(EXPECTED, {**REPORT, "seconds": seconds})
    assert answer.error is None
    assert answer.seconds == 0.0


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (["x"], "its report is of round None, not 2"),
        ("x", "its report is of round None, not 2"),
        (None, "its report is of round None, not 2"),
        ({**REPORT, "round": 1}, "its report is of round 1, not 2"),
        ({**REPORT, "metrics": 3}, "cannot be read"),
        ({**REPORT, "metrics": {"dice": 10**400}}, "cannot be read (OverflowError"),
        ({**REPORT, "images": 10**400}, "no number of training images"),
        ({**REPORT, "error": "disk full."}, "disk full"),
    ],
)
def test_report_that_cannot_be_read_is_that_sites_error(report: Any, said: str) -> None:
    answer = read(EXPECTED, report)
    assert answer.tensors is None
    assert said in str(answer.error)


@pytest.mark.parametrize("transport", ["fp32", "bf16", "int8"])
def test_huge_finite_tensors_are_refused_by_name(transport: str) -> None:
    answer = read({**EXPECTED, "b": torch.full((4,), 1e25)}, REPORT, transport)
    assert answer.tensors is None
    assert answer.error == "b is too large to be a weight; its training diverged"


def test_bytes_of_a_refused_answer_are_counted() -> None:
    answer = read({**EXPECTED, "b": torch.full((4,), float("nan"))}, REPORT)
    assert answer.error == "b is not finite"
    assert answer.tensor_bytes == 64


def test_bytes_without_a_header_are_all_counted() -> None:
    message = SimpleNamespace(meta={"msdino": REPORT}, params={"tensors": b"\xff" * 100})
    answer = read_answer(message, 2, "train", "fp32", EXPECTED, zeros(EXPECTED))
    assert "cannot be read" in str(answer.error)
    assert answer.tensor_bytes == 100


def test_mean_of_large_metrics_stays_finite() -> None:
    answers = {name: Answer(validation_images=10, metrics={"loss": 1e308}) for name in "ab"}
    assert mean_metrics(answers) == {"loss": 1e308}
