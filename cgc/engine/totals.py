"""What an epoch adds up, kept on the device so that no step has to wait for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cgc.engine.processes import Processes


class Totals:
    """Named sums and maxima on the device, read back once per report.

    ``start``: what earlier readings gave. Over several ``processes`` a reading joins them all, and every process has to
    ask for it; ``start`` is what they had joined.
    """

    def __init__(
        self, device: torch.device, start: Mapping[str, float], processes: Processes | None = None
    ) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device, self._processes = device, processes
        self._first = processes is None or processes.rank == 0
        self._totals = {  # the others' part of what was joined is in the first one's
            name: torch.tensor(value if self._first else 0.0, dtype=self._dtype, device=device)
            for name, value in start.items()
        }
        self._maxima: set[str] = set()

    def add(self, name: str, value: Tensor, *, common: bool = False) -> None:
        """Add the sum of ``value``; ``common``: it is the same on all processes, and counts once."""
        value = value.detach().sum(dtype=self._dtype)
        if common and not self._first:
            value = torch.zeros_like(value)
        self._totals[name] = self._totals[name] + value if name in self._totals else value

    def raise_to(self, name: str, value: Tensor) -> None:
        self._maxima.add(name)
        value = value.detach().to(self._dtype)
        self._totals[name] = torch.maximum(self._totals[name], value) if name in self._totals else value

    def read(self) -> dict[str, float]:
        """All totals, with one copy from the device."""
        if not self._totals:
            return {}
        own = dict(zip(self._totals, torch.stack(list(self._totals.values())).tolist(), strict=True))
        if self._processes is None:
            return own
        parts = self._processes.gather(own)
        return {name: (max if name in self._maxima else sum)(part[name] for part in parts) for name in own}


def add_step(
    totals: Totals, outputs: Mapping[str, Tensor], labels: Tensor, norm: Tensor, clip_at: float | None
) -> None:
    """Add a step's per-sample outputs (N,), logits (N, K) for (N,) labels or (N, K) several, and gradient norm."""
    for name, value in outputs.items():
        if name != "logits":
            totals.add(name, value)
    first_N = outputs["logits"].argmax(dim=1)
    several = labels.dim() == 2  # then the first prediction should be one of them
    totals.add("top1", labels.gather(1, first_N[:, None]) if several else first_N == labels)
    totals.add("samples", torch.ones(len(labels), device=labels.device))
    totals.add("steps", torch.ones((), device=norm.device), common=True)
    usable = norm.isfinite()
    totals.add("spoilt", ~usable, common=True)
    totals.add("grad_norm", torch.where(usable, norm, 0), common=True)
    totals.raise_to("grad_norm_max", torch.where(usable, norm, 0))
    if clip_at is not None:
        totals.add("clipped", norm > clip_at, common=True)


def means_of(totals: Mapping[str, float]) -> dict[str, float]:
    """Means over samples or steps; ``top1``, ``near_zero``, ``clipped`` and ``spoilt`` in percent.

    ``spoilt`` steps have a gradient that is not finite; with fp16 they are skipped, and left out of ``grad_norm``.
    """
    samples, steps = max(totals["samples"], 1), max(totals["steps"], 1)
    means: dict[str, float] = {}
    for name, total in totals.items():
        if name == "grad_norm":
            means[name] = total / max(steps - totals["spoilt"], 1)
        elif name in ("clipped", "spoilt"):
            means[name] = total / steps
        elif name == "grad_norm_max":
            means[name] = total
        elif name not in ("samples", "steps"):
            means[name] = total / samples
    for name in ("top1", "near_zero", "clipped", "spoilt"):
        if name in means:
            means[name] *= 100
    return means
