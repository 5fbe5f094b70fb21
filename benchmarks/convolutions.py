"""The convolutions of a step and nothing else: what no fused kernel or optimizer takes away from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convolutions:
    """Called, it runs the convolutions that a network has for these images, forward and backward, ``times`` times.

    Each is given what it was given inside the network, in the same layout; the first one needs no gradient of its
    input.
    """

    def __init__(self, network: nn.Module, images: Tensor, times: int) -> None:
        self.times = times
        self.cases: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
        hooks = [
            part.register_forward_hook(self._keep)
            for part in network.modules()
            if isinstance(part, nn.Conv2d)
        ]
        with torch.no_grad():
            network(images)
        for hook in hooks:
            hook.remove()
        for _, given, _ in self.cases[1:]:
            given.requires_grad_()

    def _keep(self, part: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        # Any gradient will do: how long a dense kernel takes does not depend on the numbers.
        self.cases.append((part, given[0].detach().clone(), torch.randn_like(result)))

    def __call__(self) -> None:
        for _ in range(self.times):
            for part, given, gradient in self.cases:
                wanted = [part.weight, given] if given.requires_grad else [part.weight]
                torch.autograd.grad(part(given), wanted, gradient)
