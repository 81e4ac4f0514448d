from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from msdino_monai.distributed import (
    barrier,
    default_device,
    gather_across_ranks,
    join_ranks,
    leave_ranks,
    parallel,
    rank,
    sum_across_ranks,
    under_torchrun,
    unwrapped,
    world_size,
)
from msdino_monai.pretraining import Centring, SinkhornKnopp
from msdino_monai.pretraining.head import BatchStandardisation
from msdino_monai.pretraining.loss import dino_loss, koleo_loss, mean_across_ranks, token_loss

RANKS = 2
ROWS = 5  # of each rank

Terms = dict[str, torch.Tensor]


def everything(rows: torch.Tensor, share: slice) -> Terms:
    """What is reduced over ranks, for `share` of the rows (R, C) that all ranks hold together, with gradients."""
    own = rows[share].clone().requires_grad_()
    layer = BatchStandardisation(rows.shape[1])
    standardised = layer(own)
    weights = torch.linspace(-1, 1, rows.numel()).reshape(rows.shape)[share]
    learnt = dict(zip(("rows", "weight", "bias"), _gradients((standardised * weights).sum(), own, layer), strict=True))
    targets = SinkhornKnopp()(own.detach()[None], 0.3)
    centring = Centring(rows.shape[1])
    centring(own.detach()[None], 0.3)
    koleo = koleo_loss(own)
    return {
        "standardised": standardised.detach(),
        "standardised rows' gradient": learnt["rows"],
        "sum of weight's gradient": learnt["weight"],
        "sum of bias's gradient": learnt["bias"],
        "sinkhorn": targets[0],
        "all: centre": centring.centre,
        "all: gathered": gather_across_ranks(own).detach(),
        "all: mean": mean_across_ranks(own.detach()),
        "mean of koleo": koleo.detach(),
        "koleo's gradient": torch.autograd.grad(koleo, own)[0] * len(own) / len(rows),
        "mean of dino": dino_loss(own.detach().expand(3, -1, -1), targets.expand(2, -1, -1), 0.1),
    }


def _gradients(loss: torch.Tensor, rows: torch.Tensor, layer: BatchStandardisation) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, (rows, layer.weight, layer.bias))


def uneven_token_loss(rows: torch.Tensor, share: slice) -> Terms:
    """One rank hides three tokens, the other the rest; or none."""
    return {
        f"mean of token loss at {edge}": token_loss(rows[part], SinkhornKnopp()(rows[part], 0.3), 0.1)
        for edge in (3, 0)
        for part in [slice(0, len(rows)) if share.stop == len(rows) and share.start == 0 else _cut(share, edge, rows)]
    }


def _cut(share: slice, edge: int, rows: torch.Tensor) -> slice:
    return slice(0, edge) if share.start == 0 else slice(edge, len(rows))


def rows_of_all() -> torch.Tensor:
    return torch.randn(RANKS * ROWS, 6, generator=torch.Generator().manual_seed(0))


def as_rank(number: int, folder: str, work: Callable[[torch.Tensor, slice], Terms]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)
    torch.save(work(rows_of_all(), slice(number * ROWS, (number + 1) * ROWS)), f"{folder}/{number}.pt")
    barrier()
    leave_ranks()


def on_ranks(folder: Path, work: Callable[[torch.Tensor, slice], Terms]) -> list[Terms]:
    """The work of every rank, in processes of their own."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai.bundle", "msdino_monai.pretraining"])
    children = [context.Process(target=as_rank, args=(number, str(folder), work)) for number in range(RANKS)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * RANKS
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(RANKS)]


def together(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    if name.startswith("all:"):
        assert torch.equal(parts[0], parts[1]), name
        return parts[0]
    if name.startswith("sum of"):
        return torch.stack(parts).sum(0)
    if name.startswith("mean of"):
        return torch.stack(parts).mean(0)
    return torch.cat(parts)


@pytest.mark.parametrize("work", [everything, uneven_token_loss])
def test_ranks_together_say_what_one_process_says(work: Callable[[torch.Tensor, slice], Terms], tmp_path: Path) -> None:
    alone = work(rows_of_all(), slice(0, RANKS * ROWS))
    ranks = on_ranks(tmp_path, work)
    for name, expected in alone.items():
        found = together(name, [terms[name] for terms in ranks])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def averaged_gradients(rows: torch.Tensor, share: slice) -> Terms:
    torch.manual_seed(0)
    network = parallel(torch.nn.Sequential(torch.nn.Linear(6, 4), BatchStandardisation(4)))
    loss = F.cross_entropy(network(rows[share]), torch.arange(len(rows))[share] % 4)
    loss.backward()
    return {f"all: {name}": parameter.grad for name, parameter in unwrapped(network).named_parameters()}


def test_wrapped_network_learns_as_one_process_would(tmp_path: Path) -> None:
    """The bias below a standardisation has no gradient but rounding; the others are compared."""
    alone, ranks = averaged_gradients(rows_of_all(), slice(0, RANKS * ROWS)), on_ranks(tmp_path, averaged_gradients)
    for name, expected in alone.items():
        torch.testing.assert_close(together(name, [terms[name] for terms in ranks]), expected, atol=1e-6, rtol=1e-4)


def test_one_process_is_its_own_sum() -> None:
    rows = torch.randn(3, 2)
    assert sum_across_ranks(rows) is rows
    assert gather_across_ranks(rows) is rows
    network = torch.nn.Linear(2, 2)
    assert parallel(network) is network
    assert unwrapped(network) is network


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    join_ranks()
    assert not dist.is_initialized()
    assert (rank(), world_size(), under_torchrun()) == (0, 1, False)
    barrier()
    leave_ranks()
    assert default_device().type in ("cpu", "cuda")
