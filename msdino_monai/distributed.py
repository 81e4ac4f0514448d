"""Ranks, where torchrun started this process; one rank everywhere else."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def under_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def default_device() -> torch.device:
    """This rank's GPU, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")


def join_ranks() -> None:
    """Meet the other ranks, if there are any; each keeps to its own GPU."""
    if under_torchrun() and torch.cuda.is_available():
        torch.cuda.set_device(default_device())
    if under_torchrun() and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def parallel(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over the ranks if there are several."""
    if not dist.is_initialized():
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def leave_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _SumAcrossRanks(torch.autograd.Function):
    """The sum over ranks; its gradient is summed over ranks too, so statistics of the whole batch can be learnt."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _all_reduced(gradient)


def _all_reduced(values: torch.Tensor) -> torch.Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def sum_across_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of every rank's tensor, differentiable on every backend."""
    if not dist.is_initialized():
        return values
    return _SumAcrossRanks.apply(values)  # type: ignore[no-any-return, no-untyped-call]


def gather_across_ranks(rows: torch.Tensor) -> torch.Tensor:
    """Every rank's rows (B, C) one after the other, (W * B, C), differentiable on every backend."""
    if not dist.is_initialized():
        return rows
    before, after = dist.get_rank(), dist.get_world_size() - dist.get_rank() - 1
    padded = torch.nn.functional.pad(rows, (0, 0, before * len(rows), after * len(rows)))
    return sum_across_ranks(padded)


def gather_objects(objects: list[Any]) -> list[Any]:
    """Every rank's objects one after the other, on every rank; a rank may have none."""
    if not dist.is_initialized():
        return objects
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, objects)
    return [each for part in gathered for each in part]
