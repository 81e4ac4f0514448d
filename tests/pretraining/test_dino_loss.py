from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from msdino_monai.pretraining import Centring, DistillationLoss, SinkhornKnopp
from msdino_monai.pretraining.branch import Outputs
from msdino_monai.pretraining.loss import dino_loss, entropy, koleo_loss, token_loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def softmax(logits: torch.Tensor, temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits.tolist()]
    return [power / sum(powers) for power in powers]


def slow_dino_loss(student: torch.Tensor, targets: torch.Tensor, temperature: float) -> float:
    """The paper's two loops: for every view of the teacher, every other view of the student."""
    total, pairs = 0.0, 0
    for t, target in enumerate(targets):
        for s, logits in enumerate(student):
            if s == t:
                continue
            for wanted, given in zip(target, logits, strict=True):
                probabilities = softmax(given, temperature)
                crosses = (w * math.log(p) for w, p in zip(wanted.tolist(), probabilities, strict=True))
                total -= sum(crosses) / len(target)
            pairs += 1
    return total / pairs


@pytest.mark.parametrize(
    ("num_views", "images", "prototypes"), [(2, 1, 3), (2, 5, 16), (3, 4, 7), (6, 3, 10), (10, 2, 4)]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_loss_is_the_papers_double_loop(num_views: int, images: int, prototypes: int, temperature: float) -> None:
    student = torch.randn(num_views, images, prototypes, dtype=torch.float64)
    targets = F.softmax(torch.randn(2, images, prototypes, dtype=torch.float64) / 0.3, dim=-1)
    found = float(dino_loss(student, targets, temperature))
    assert found == pytest.approx(slow_dino_loss(student, targets, temperature), rel=1e-9)


def test_view_never_learns_from_itself() -> None:
    """What the teacher says of the first view does not touch the student's first view."""
    student = torch.randn(2, 3, 5, requires_grad=True)
    targets = F.softmax(torch.randn(2, 3, 5), dim=-1)
    targets[1] = 0
    dino_loss(student, targets, 0.1).backward()
    assert student.grad is not None
    assert student.grad[0].abs().sum() == 0
    assert student.grad[1].abs().sum() > 0


def slow_sinkhorn(logits: torch.Tensor, temperature: float, iterations: int) -> list[list[float]]:
    """Algorithm 1 of arXiv 2006.09882 in float64: prototypes are used equally, then every row adds up to 1."""
    rows = [[math.exp(value / temperature) for value in row] for row in logits.double().tolist()]
    for _ in range(iterations):
        sums = [sum(row[p] for row in rows) for p in range(len(rows[0]))]
        rows = [[value / sums[p] for p, value in enumerate(row)] for row in rows]
        rows = [[value / sum(row) for value in row] for row in rows]
    return rows


@pytest.mark.parametrize(("shape", "temperature"), [((2, 4, 6), 0.05), ((1, 9, 3), 0.1), ((2, 2, 16), 1.0)])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_is_the_slow_loop(shape: tuple[int, ...], temperature: float, iterations: int) -> None:
    logits = F.normalize(torch.randn(*shape), dim=-1)
    found = SinkhornKnopp(iterations)(logits, temperature)
    assert found.shape == shape
    expected = torch.tensor(slow_sinkhorn(logits.flatten(0, 1), temperature, iterations)).reshape(shape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_sinkhorn_uses_every_prototype_equally() -> None:
    logits = torch.randn(2, 32, 8) + 5 * torch.arange(8)  # everybody prefers the last one
    targets = SinkhornKnopp(50)(logits, 1.0)
    torch.testing.assert_close(targets.sum(-1), torch.ones(2, 32))
    torch.testing.assert_close(targets.flatten(0, 1).mean(0), torch.full((8,), 1 / 8), atol=1e-3, rtol=0)


def test_sinkhorn_stays_finite_where_the_exponential_would_not() -> None:
    assert SinkhornKnopp()(torch.tensor([[[1e4, 0.0], [0.0, -1e4]]]), 0.05).isfinite().all()


def test_centring_is_a_running_mean_and_a_softmax() -> None:
    targets, centre = Centring(5, momentum=0.8), torch.zeros(5)
    for _ in range(4):
        logits = torch.randn(2, 3, 5) + 2
        expected = F.softmax((logits - centre) / 0.07, dim=-1)
        torch.testing.assert_close(targets(logits, 0.07), expected)
        centre = 0.8 * centre + 0.2 * logits.mean((0, 1))
        torch.testing.assert_close(targets.centre, centre)
    assert "centre" in targets.state_dict()


def slow_koleo(features: torch.Tensor) -> torch.Tensor:
    unit = features / features.norm(dim=-1, keepdim=True)
    nearest = [
        torch.stack([(unit[i] - unit[j]).norm() for j in range(len(unit)) if j != i]).min() for i in range(len(unit))
    ]
    return -torch.stack(nearest).log().mean()


@pytest.mark.parametrize(("rows", "width"), [(2, 3), (7, 4), (20, 16)])
def test_koleo_is_brute_force_and_so_are_its_gradients(rows: int, width: int) -> None:
    features = torch.randn(rows, width, requires_grad=True)
    expected = slow_koleo(features)
    (slow,) = torch.autograd.grad(expected, features)
    found = koleo_loss(features)
    (fast,) = torch.autograd.grad(found, features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)


def test_koleo_of_equal_features_is_finite() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_token_loss_is_a_mean_over_hidden_tokens() -> None:
    student, targets = torch.randn(6, 4), F.softmax(torch.randn(6, 4), dim=-1)
    expected = sum(
        -float(targets[r, p]) * math.log(softmax(student[r], 0.2)[p]) for r in range(6) for p in range(4)
    ) / len(student)
    assert float(token_loss(student, targets, 0.2)) == pytest.approx(expected, rel=1e-5)


def test_batch_without_a_hidden_token_has_no_token_loss() -> None:
    logits = torch.randn(0, 4, requires_grad=True)
    loss = token_loss(logits, SinkhornKnopp()(logits, 0.1), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert Centring(4)(logits, 0.1).shape == (0, 4)


def outputs(**changes: Any) -> tuple[Outputs, Outputs]:
    student = Outputs(torch.randn(4, 5, 6), torch.randn(4, 5, 8), torch.randn(7, 8))
    teacher = Outputs(torch.randn(2, 5, 6), torch.randn(2, 5, 8), torch.randn(7, 8))
    return student._replace(**changes), teacher


def test_terms_add_up_with_their_weights() -> None:
    student, teacher = outputs()
    loss = DistillationLoss(SinkhornKnopp(), SinkhornKnopp(), 0.1, koleo_weight=0.3, token_weight=2.0)
    terms = loss(student, teacher, 0.05)
    targets = SinkhornKnopp()(teacher.logits, 0.05)
    torch.testing.assert_close(terms.dino, dino_loss(student.logits, targets, 0.1))
    torch.testing.assert_close(terms.koleo, (koleo_loss(student.features[0]) + koleo_loss(student.features[1])) / 2)
    hidden = SinkhornKnopp()(teacher.token_logits, 0.05)
    assert student.token_logits is not None
    torch.testing.assert_close(terms.token, token_loss(student.token_logits, hidden, 0.1))
    torch.testing.assert_close(terms.loss, terms.dino + 0.3 * terms.koleo + 2 * terms.token)
    torch.testing.assert_close(terms.teacher_entropy, entropy(targets).mean())
    torch.testing.assert_close(terms.teacher_spread, entropy(targets.mean((0, 1))))
    torch.testing.assert_close(terms.kl, terms.dino - terms.teacher_entropy)


def test_hidden_tokens_have_a_centre_of_their_own() -> None:
    loss = DistillationLoss(Centring(8), Centring(8), token_weight=1.0)
    student, teacher = outputs()
    loss(student, teacher, 0.05)
    torch.testing.assert_close(loss.targets.centre, 0.1 * teacher.logits.mean((0, 1)))
    assert teacher.token_logits is not None
    torch.testing.assert_close(loss.token_targets.centre, 0.1 * teacher.token_logits.mean(0))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = outputs()
    teacher = teacher._replace(logits=teacher.logits.requires_grad_())
    student = student._replace(logits=student.logits.requires_grad_())
    DistillationLoss(SinkhornKnopp())(student, teacher, 0.05).loss.backward()
    assert teacher.logits.grad is None
    assert student.logits.grad is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Centring(4, momentum=1.0), "got 1.0"),
        (lambda: SinkhornKnopp(0), "got 0"),
        (lambda: DistillationLoss(SinkhornKnopp(), student_temperature=0.0), "got 0.0"),
        (lambda: DistillationLoss(SinkhornKnopp(), koleo_weight=-1.0), "must not be negative"),
        (lambda: DistillationLoss(SinkhornKnopp(), token_weight=1.0), "needs token_targets"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_sinkhorn_knows_very_sharp_teachers() -> None:
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(256, 16), dim=-1)
    prototypes = F.normalize(torch.cat([rows[:1], torch.randn(511, 16)]), dim=-1)
    targets = SinkhornKnopp()(rows @ prototypes.T, 0.004)
    torch.testing.assert_close(targets.sum(-1), torch.ones(256))
