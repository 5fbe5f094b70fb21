"""What an epoch adds up, kept on the device so that no step has to wait for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Totals:
    """Named sums and maxima on the device, read back once per report."""

    def __init__(self, device: torch.device, start: Mapping[str, float]) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._totals = {k: torch.tensor(v, dtype=self._dtype, device=device) for k, v in start.items()}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().sum(dtype=self._dtype)
        self._totals[name] = self._totals[name] + value if name in self._totals else value

    def raise_to(self, name: str, value: Tensor) -> None:
        value = value.detach().to(self._dtype)
        self._totals[name] = torch.maximum(self._totals[name], value) if name in self._totals else value

    def read(self) -> dict[str, float]:
        """All totals, with one copy from the device."""
        if not self._totals:
            return {}
        return dict(zip(self._totals, torch.stack(list(self._totals.values())).tolist(), strict=True))


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
