"""Training over several processes: one wrapped module, one decision to stop, one set of batch norm statistics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cgc.engine.processes import Processes
from cgc.engine.runtime import StopRequest
from cgc.errors import InputError


def distributed(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module with its gradients averaged over the processes.

    A method is one call of the module however many passes through the network it makes, so DDP sees each parameter
    once per step. Statistics of batch norm are the process's own during an epoch (:func:`share_buffers`).
    """
    # Newer versions of torch have another name for not sending the buffers around in every step.
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {sync: False, "device_ids": [device.index] if device.type == "cuda" else None}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replace the batch norm layers inside ``model`` by ones whose statistics are those of the whole batch.

    Raises InputError where torch has none, which is everywhere but on GPUs.
    """
    if device.type != "cuda":
        raise InputError(f"--sync-bn needs GPUs, this is {device.type}")
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    convert(model)  # in place, but for a model that is itself such a layer


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, as they are validated and saved."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


class StopTogether(StopRequest):
    """A request to stop that is the same on all processes: what one of them was told holds from the next
    :meth:`agree` on.
    """

    def __init__(self, own: StopRequest, processes: Processes) -> None:
        super().__init__()
        self.own, self.processes = own, processes

    def agree(self) -> None:
        """Collective: every process has to call it after the same step."""
        signals = [each for each in self.processes.gather(self.own.signal) if each is not None]
        self.signal = signals[0] if signals else None
