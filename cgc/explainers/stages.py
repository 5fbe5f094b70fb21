"""Which layer stands one stage before the last: where excitation backprop reads its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.base import target_layer
from cgc.modes import evaluating

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_PROBE_SIDES = (96, 224, 299)  # the larger ones are for networks whose fixed pools need them


def stage_before_last(backbone: nn.Module) -> str:
    """Name of the layer that feeds the last stage: ``layer3`` of a ResNet, the fourth pool of a VGG.

    Stages are a ResNet's ``layerN``; elsewhere the resolutions of the feature grid, seen by running a blank image. The
    layer is the input of the module that makes the last grid, or that module itself where it is a pool.

    Raises InputError if the network has no convolutional stage, or nothing with a name comes before the last one.
    """
    last = target_layer(backbone, None)
    before = f"layer{int(last[5:]) - 1}" if last.startswith("layer") and last[5:].isdigit() else ""
    if before in dict(backbone.named_children()):
        return before
    calls = _calls(backbone)
    end = max(i for i, call in enumerate(calls) if call.name == last)
    calls, final = calls[: end + 1], calls[end].output.shape[2:]
    shrinking = [
        call
        for call in calls
        if call.output.shape[2:] == final and call.input.shape[2:].numel() > final.numel()
    ]
    if shrinking:
        call = min(shrinking, key=lambda call: (call.input.shape[2:].numel(), call.name.count(".")))
        is_pool = isinstance(backbone.get_submodule(call.name), _POOLS)
        features = call.output if is_pool else call.input
        names = [each.name for each in calls if each.output is features]
        if names:
            return min(names, key=lambda name: name.count("."))
    raise InputError(f"no layer of {type(backbone).__name__} ends the stage before the last; name a layer")


@dataclass(frozen=True, eq=False)
class _Call:
    name: str
    input: Tensor
    output: Tensor


def _calls(backbone: nn.Module) -> list[_Call]:
    """The submodules that took and gave (N, C, h, w), in the order in which they returned."""
    calls: list[_Call] = []

    def record(name: str, args: tuple[Any, ...], output: Any) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and isinstance(output, Tensor) and given.ndim == output.ndim == 4:
            calls.append(_Call(name, given, output))

    hooks = [
        module.register_forward_hook(lambda _module, args, output, name=name: record(name, args, output))
        for name, module in backbone.named_modules()
        if name
    ]
    parameter = next(backbone.parameters())
    try:
        with evaluating(backbone), torch.no_grad():
            for side in _PROBE_SIDES:
                calls.clear()
                try:
                    backbone(parameter.new_zeros(2, 3, side, side))
                    break
                except RuntimeError:
                    if side == _PROBE_SIDES[-1]:
                        raise
    finally:
        for hook in hooks:
            hook.remove()
    return calls
