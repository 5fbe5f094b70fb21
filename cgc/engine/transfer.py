"""To the device and back without making it, or Python, wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=tuple[Any, ...])


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU gets it from pinned memory, so that the copy is queued like any other work."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A named tuple with its tensors on the device, its other fields as they are."""
    moved = (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch)
    return type(batch)(*moved)


def ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; a GPU gets the next one on a stream of its own while it works on the current one."""
    if device.type != "cuda":
        for batch in batches:
            yield on_device(batch, device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = on_device(batch, device), stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = following
    if waiting is not None:
        yield _arrived(*waiting, device)


def _arrived(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch, for use on the current stream once its copy is done."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    for value in batch:
        if isinstance(value, Tensor):
            value.record_stream(current)  # its memory is not free before this stream is done with it
    return batch


class Readback:
    """Copies of small tensors, queued when made and awaited when read: work queued in between goes on meanwhile."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies: dict[str, Tensor] = {}
        self._event: torch.cuda.Event | None = None
        for name, tensor in tensors.items():
            if tensor.is_cuda:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                tensor = copy.copy_(tensor, non_blocking=True)
                self._event = self._event or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copies[name] = tensor
        if self._event is not None:
            self._event.record()

    def columns(self) -> dict[str, Any]:
        """The values, as lists."""
        if self._event is not None:
            self._event.synchronize()
        return {name: copy.tolist() for name, copy in self._copies.items()}
