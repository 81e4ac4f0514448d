"""What a site answered in a round, once it has been checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from msdino_monai.errors import UserError
from msdino_monai.federated.selection import check_tensors, check_weights
from msdino_monai.federated.transport import plus, tensor_bytes, unpack

Tensors = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Tensors, their weight and metrics; or, in `error`, why there are none."""

    tensors: dict[str, torch.Tensor] | None = None
    images: int = 0
    validation_images: int = 0
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    held: int = -1
    received: int = 0
    tensor_bytes: int = 0
    peak_memory_bytes: int = 0
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """For the report."""
        return {
            "images": self.images,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "error": self.error,
        }


def read_answer(message: Any, number: int, work: str, transport: str, expected: Tensors, held: Tensors) -> Answer:
    """An answer from a message nobody has checked; a site can break nothing but its own part in the round."""
    given = message.meta.get("msdino")
    report: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    held_round, received = _whole(report.get("held"), -1), _whole(report.get("received"), 0)
    content = b""
    try:
        if report.get("error"):
            raise UserError(str(report["error"])[:500].rstrip("."))
        if report.get("round") != number:
            raise UserError(f"its report is of round {report.get('round')!r}, not {number}")
        seconds = _metric(report.get("seconds")) or 0.0
        metrics = {str(name): _metric(value) for name, value in dict(report["metrics"]).items()}
        images, validation_images = _whole(report["images"], 0), _whole(report["validation_images"], 0)
        content = bytes(message.params["tensors"])
        tensors = None
        if work == "train":
            if images < 1:
                raise UserError(f"{report['images']!r} is no number of training images")
            tensors = unpack(content, transport)
            check_tensors(tensors, expected)
            tensors = tensors if transport == "fp32" else plus(held, tensors)
            check_weights(tensors, expected)
    except Exception as error:  # whatever it is, the other sites go on
        line = str(error) if isinstance(error, UserError) else f"its answer cannot be read ({error!r})"
        return Answer(held=held_round, received=received, tensor_bytes=_tensor_bytes(content), error=line[:600])
    return Answer(
        tensors,
        images,
        validation_images,
        metrics,
        seconds,
        held_round,
        received,
        _tensor_bytes(content),
        _whole(report.get("peak_memory_bytes"), 0),
    )


def mean_metrics(answers: Mapping[str, Answer]) -> dict[str, float]:
    """Means over the sites where a metric is defined, weighted by validation images."""
    means = {}
    for name in dict.fromkeys(name for answer in answers.values() for name in answer.metrics):
        pairs = [
            (value, answer.validation_images)
            for answer in answers.values()
            if (value := answer.metrics.get(name)) is not None
        ]
        if total := sum(weight for _, weight in pairs):
            means[name] = sum(value * (weight / total) for value, weight in pairs)
    return means


def _tensor_bytes(content: bytes) -> int:
    """Of bytes that may be no tensors at all."""
    count = tensor_bytes(content) if content else 0
    return count if count >= 0 else len(content)


def _metric(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else otherwise
