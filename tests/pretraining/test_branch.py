from __future__ import annotations

import torch

from msdino_monai.networks import ViTBody
from msdino_monai.pretraining import Branch, DINOHead, start_teacher
from msdino_monai.pretraining.branch import update_teacher


def branch(seed: int = 0, drop_path_rate: float = 0.0) -> Branch:
    torch.manual_seed(seed)
    body = ViTBody(6, 8, 16, 2, 2, drop_path_rate=drop_path_rate)
    return Branch(body, DINOHead(8, 5, 12, 4, standardise=False), DINOHead(8, 5, 12, 4, standardise=False))


def test_teacher_is_the_moving_average_of_the_student() -> None:
    student, teacher = branch(0), start_teacher(branch(1))
    before = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    for momentum in (0.9, 0.996, 0.0, 1.0):
        update_teacher(teacher, student, momentum)
        learnt = dict(student.named_parameters())
        for name, parameter in teacher.named_parameters():
            before[name] = momentum * before[name] + (1 - momentum) * learnt[name].detach()
            torch.testing.assert_close(parameter, before[name], msg=name)


def test_teacher_starts_as_the_student_and_neither_learns_nor_drops_paths() -> None:
    student = branch(drop_path_rate=0.5).train()
    teacher = start_teacher(student)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    tokens = [torch.randn(2, 3, 4, 6)]
    assert torch.equal(teacher(tokens).logits, teacher(tokens).logits)
    assert torch.equal(teacher(tokens).logits, student.eval()(tokens).logits)
    update_teacher(teacher, branch(1), 0.5)
    assert not torch.equal(teacher.head.prototypes, student.head.prototypes), "a copy of its own"


def test_groups_run_together_as_they_would_alone() -> None:
    network, large, small = branch().eval(), torch.randn(2, 3, 5, 6), torch.randn(4, 3, 2, 6)
    together = network([large, small])
    assert together.features.shape == (6, 3, 8)
    assert together.logits.shape == (6, 3, 5)
    for number, subset in enumerate([*large, *small]):
        state = network.body(subset)[:, 0]
        torch.testing.assert_close(together.features[number], state)
        torch.testing.assert_close(together.logits[number], network.head(state))


def test_hidden_tokens_answer_in_their_places() -> None:
    network, large = branch().eval(), torch.randn(2, 3, 5, 6)
    hidden = torch.rand(2, 3, 5) < 0.5
    found = network([large], hidden).token_logits
    states = network.body(large.flatten(0, 1))[:, 1:]
    torch.testing.assert_close(found, network.token_head(states[hidden.flatten(0, 1)]))
    assert network([large]).token_logits is None
