"""Several processes, as torchrun starts them, that share one evaluation or one training step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cgc.errors import InputError

_Part = TypeVar("_Part")


class Processes:
    """This process among ``size`` ones."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @property
    def share(self) -> slice:
        """Every ``size``-th of a list of batches: neighbours are alike in size, so the work is spread evenly."""
        return slice(self.rank, None, self.size)

    def gather(self, part: _Part) -> list[_Part]:
        """Every process's part, in order of rank, on every process."""
        parts: list[_Part | None] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts  # type: ignore[return-value]  # all are there now

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Every process's rows (n, ...) in order of rank, (n·size, ...), on every process; n is the same on all.

        Differentiable where ``rows`` requires grad: the gradient of a process's rows is the *sum* of those of all
        processes' losses. Where each loss is a mean over the process's own rows, and the parameters' gradients are
        averaged over the processes (DDP), that makes the gradient of the mean over all rows.

        A collective call, backward too: every process has to make it, in the same order among others.
        """
        gathered: Tensor = _GatherRows.apply(rows, self.rank, self.size)
        return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        n = len(rows)
        ctx.own = slice(rank * n, (rank + 1) * n)
        gathered = rows.new_empty(size * n, *rows.shape[1:])
        dist.all_gather(list(gathered.chunk(size)), rows.contiguous())
        return gathered

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None


@contextlib.contextmanager
def joined_processes(device: torch.device, backend: str | None = None) -> Iterator[Processes | None]:
    """The processes that torchrun started, or None where this one was started alone.

    ``backend``: how they talk; by default NCCL between GPUs and gloo else.

    Raises InputError where torchrun's variables are there but the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    try:
        dist.init_process_group(backend or ("nccl" if device.type == "cuda" else "gloo"))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the other processes cannot be reached: {str(error).splitlines()[0]}") from error
    yield Processes(dist.get_rank(), dist.get_world_size())
    # Not after an error: the others may be in the middle of an exchange, and this one has something to say and to end.
    dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process where torchrun started one per GPU; any other device as it is.

    A GPU with a number becomes the current one.

    Raises InputError where there are fewer GPUs than processes, or where all processes were given the same one.
    """
    rank = os.environ.get("LOCAL_RANK")
    if device.type != "cuda":
        return device
    if rank is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.index is not None:
            raise InputError(f"{device}: torchrun gives each process a GPU of its own; leave the number out")
        if int(rank) >= torch.cuda.device_count():
            raise InputError(
                f"process {rank} on this machine has no GPU: there are {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", int(rank))
    if device.index is not None:
        torch.cuda.set_device(device)
    return device
