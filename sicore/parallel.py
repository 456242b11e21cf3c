"""One model trained by several processes: each takes its share of every batch, and gradients are averaged.

For networks that are too slow on one GPU. The processes run on this computer and are started from the notebook's,
so nothing else has to be launched. Each reads the pictures of its own share only. Every process does the same
arithmetic on averaged gradients, so all hold the same model, and the first one writes what is kept.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException


@dataclass(frozen=True)
class Group:
    """The processes that share a training. A process alone is a group of one, and nothing here does anything.

    Parameters
    ----------
    rank
        Number of this process, 0 to ``size - 1``; the first one writes to the store.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, rows: Tensor) -> Tensor:
        """Every ``size``-th row, [B, ...] -> [B / size, ...]; ``ValueError`` where it does not divide."""
        if len(rows) % self.size:
            raise ValueError(f"batch = {len(rows)} cannot be shared evenly by data_parallel = {self.size} processes")
        return rows[self.rank :: self.size]

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes, in one message a type."""
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for own in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in own])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
                tensor.copy_(mean.view(tensor.shape))


ALONE = Group()


class _SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the whole batch (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean = _mean_of_all(x.mean((0, 2, 3)))  # [C]
        centred = x - mean[:, None, None]
        variance = _mean_of_all(centred.square().mean((0, 2, 3)))  # [C]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            seen = x.numel() // x.shape[1] * dist.get_world_size()
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(variance.detach() * (seen / (seen - 1)), self.momentum)
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shifted = centred * scale[:, None, None]
        return shifted if self.bias is None else shifted + self.bias[:, None, None]


class _SumOfAll(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of theirs, since each one's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _mean_of_all(value: Tensor) -> Tensor:
    return _SumOfAll.apply(value) / dist.get_world_size()


def synchronised(model: nn.Module, group: Group) -> nn.Module:
    """Let every BatchNorm2d of a model, in place, normalise over the batches of all processes. Returns the model."""
    if group.size > 1:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _SharedBatchNorm
    return model


def launch(size: int, job: Callable[..., None], *arguments: Any, device: str = "cpu") -> None:
    """Call ``job(group, device, *arguments)`` in ``size`` new processes, and wait.

    Parameters
    ----------
    job
        A function of a module, since the processes are new.
    device
        ``cpu``: one thread each, connected by gloo; ``cuda``: one GPU each, by NCCL.

    Raises
    ------
    ValueError
        Before anything starts: for a device with a number, or more processes than GPUs.
    RuntimeError
        When a process fails; the others are ended.
    """
    check(size, device)
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        try:
            torch.multiprocessing.spawn(_work, (size, os.getpid(), meeting, job, device, arguments), nprocs=size)
        except ProcessException as error:
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"process {error.error_index} of {size} failed: {last}") from error


def check(size: int, device: str) -> None:
    """``ValueError`` unless this computer can run so many processes on the device."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"data_parallel = {size!r}: expected an integer of 1 or more")
    if size > 1 and device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} with data_parallel = {size}: name cuda, without a number")
    if size > 1 and device == "cuda" and size > torch.cuda.device_count():
        raise ValueError(f"data_parallel = {size}: this computer has {torch.cuda.device_count()} GPUs")


def _work(
    rank: int, size: int, parent: int, meeting: str, job: Callable[..., None], device: str, arguments: tuple[Any, ...]
) -> None:
    from sicore.jobs import leave_with_parent

    threading.Thread(target=leave_with_parent, args=(parent,), daemon=True).start()
    if device == "cuda":
        device = f"cuda:{rank}"
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("gloo" if device == "cpu" else "nccl", init_method=meeting, rank=rank, world_size=size)
    job(Group(rank, size), device, *arguments)
    dist.destroy_process_group()  # not after an error: that would make the others fail, and hide it
