"""Devices, precision, and being asked to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from cgc.data.workers import end_workers
from cgc.errors import InputError

Precision = Literal["off", "bf16", "fp16"]
Item = TypeVar("Item")
# Slurm sends the last one where it is asked for a warning. Windows has no SIGUSR1.
STOP_SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n))
_SAME_REQUEST = 1.0  # seconds
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt's parameters in <malloc.h>


def pick_device(name: str | None, gpu: int | None = None) -> torch.device:
    """The device that ``--device`` names; by default the GPU if there is one (``gpu`` picks which), else the CPU.

    Raises InputError for a device that this machine does not have.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() or gpu is not None else "cpu"
    if name == "cuda" and gpu is not None:
        name = f"cuda:{gpu}"
    rank = os.environ.get("LOCAL_RANK")
    if name == "cuda" and rank is not None and int(rank) < torch.cuda.device_count():
        torch.cuda.set_device(int(rank))  # else every process of this machine would open the first one
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def keep_freed_memory() -> bool:
    """Ask the C library (glibc) to keep freed memory for the next large tensors; whether it will.

    By default each large tensor is fresh pages from Linux, handed back when it is freed, and a training step on the CPU
    spends a tenth of its time on page faults (docs/performance.md). What is kept is at most the peak, and fragments.
    A MALLOC_ or GLIBC_TUNABLES variable in the environment is somebody's own choice, and stays.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


class InPrecision(nn.Module):
    """Runs a module under autocast.

    Inside DataParallel, not around it: its threads take over that autocast is on, but not the precision.
    """

    def __init__(self, module: nn.Module, device: torch.device, precision: Precision) -> None:
        super().__init__()
        autocast(device, precision)  # refuses a precision that is not there
        self.module, self.device, self.precision = module, device, precision

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        with autocast(self.device, self.precision):
            return self.module(*tensors)


def in_parallel(
    module: nn.Module, device: torch.device, precision: Precision = "off", *, gpus: int | None = None
) -> nn.Module:
    """The module in mixed precision if asked, and in DataParallel over all visible GPUs (or the first ``gpus`` of them)
    where several are there and none was picked.

    Raises InputError where the device lacks the precision.
    """
    if precision != "off":
        module = InPrecision(module, device, precision)
    if device.type == "cuda" and device.index is None:
        count = min(torch.cuda.device_count(), gpus or sys.maxsize)
        if count > 1:
            return nn.DataParallel(module, device_ids=list(range(count)))
    return module


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Mixed precision for the forward pass; "off" is float32 throughout.

    Raises InputError where the device lacks the precision.
    """
    if precision == "off":
        return contextlib.nullcontext()
    if precision == "fp16" and device.type != "cuda":
        raise InputError("--amp fp16 needs a CUDA device; use --amp bf16 on the CPU")
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise InputError("this GPU has no bfloat16; use --amp fp16")
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def bar_interval() -> float:
    """Seconds between two drawings of a progress bar: a log file needs fewer than a terminal."""
    return 0.5 if sys.stderr.isatty() else 30.0


class Stopped(Exception):
    """Work was broken off at a safe place because of a :class:`StopRequest`."""


class StopRequest:
    """Set by the first SIGINT, SIGTERM or SIGUSR1, so that the step in progress can be finished.

    A further Ctrl-C interrupts, if it comes a while later: a scheduler and torchrun may both pass on one request, and
    what was asked for is still under way then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._awaited = False  # something that may never come; no step is in progress

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells and schedulers expect."""
        return 128 + self.signal if self.signal is not None else 0

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGINT and time.monotonic() - self._since > _SAME_REQUEST:
                raise KeyboardInterrupt
            return
        self.signal, self._since = signal.Signals(number), time.monotonic()
        print(f"\n{self.signal.name}: finishing the step, then saving", file=sys.stderr, flush=True)
        if self._awaited:
            raise Stopped

    def while_awaited(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; while one is awaited, which may stall, a request ends the waiting at once: Stopped is raised.

        Several processes stop together instead (:class:`cgc.engine.together.StopTogether`), not in the middle of this.
        """
        taken = iter(items)
        while True:
            self._awaited = True
            try:
                item = next(taken)
            except StopIteration:
                return
            except Stopped:
                end_workers()  # one that waits for a server would be waited for
                raise
            finally:
                self._awaited = False
            yield item

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals inside the ``with`` block; the previous handlers come back after it."""
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
