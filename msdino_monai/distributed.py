"""Ranks, where torchrun started this process; one rank everywhere else."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


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
    """Meet the other ranks, if there are any."""
    if under_torchrun() and not dist.is_initialized():
        dist.init_process_group("gloo")


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def leave_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
