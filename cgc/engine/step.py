"""One optimisation step: forward, backward, update; in several parts if asked, on several processes if there are.

Nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cgc.engine.runtime import Precision


class OptimizerStep:
    """``outputs, norm = step(inputs)``: one update of ``model`` by the mean of ``method``'s per-sample ``loss``.

    With ``parts`` > 1 the inputs are cut along the batch, as DataParallel cuts them for its replicas, and the gradients
    of the parts are added up before the update (gradient accumulation): less memory, the same cross-entropy; a part's
    negatives are its own, and so are batch norm's statistics.
    """

    def __init__(
        self,
        method: nn.Module,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        *,
        amp: Precision = "off",
        clip_grad_norm: float | None = None,
        parts: int = 1,
    ) -> None:
        self.method, self.model, self.optimizer = method, model, optimizer
        self.limit = math.inf if clip_grad_norm is None else clip_grad_norm
        self.parts = parts
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Per-sample outputs without their graph, and the norm of the gradient (before clipping)."""
        self.optimizer.zero_grad(set_to_none=True)
        cut = cut_batch(inputs, self.parts)
        outputs = []
        for number, part in enumerate(cut, start=1):
            with self._alone() if number < len(cut) else contextlib.nullcontext():
                given = self.method(*part)
                loss = given["loss"]
                share = len(loss) / sum(len(each[0]) for each in cut)
                self.scaler.scale(loss.mean() * share).backward()
            outputs.append({name: value.detach() for name, value in given.items()})
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: torch.cat([each[name] for each in outputs]) for name in outputs[0]}, norm

    def load_state(self, state: Mapping[Any, Any], groups: list[dict[str, Any]]) -> None:
        """Take up an optimizer's state: momentum, but the learning rates of ``groups``.

        Raises what ``load_state_dict`` raises for a state that does not fit.
        """
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, own in self.optimizer.state.items():
            momentum = own.get("momentum_buffer")
            if momentum is not None:
                # The fused update goes through both in order of memory: a file may hold another order.
                own["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged with other processes once per step, after the last part."""
        if isinstance(self.method, DistributedDataParallel):
            return self.method.no_sync()
        return contextlib.nullcontext()


def cut_batch(inputs: Sequence[Tensor], parts: int) -> list[tuple[Tensor, ...]]:
    """The inputs in at most ``parts`` parts along their first dimension, by the rule of ``torch.chunk``.

    Raises ValueError where tensors of different lengths give different numbers of parts.
    """
    if parts == 1:
        return [tuple(inputs)]
    chunks = [tensor.chunk(parts) for tensor in inputs]
    if len({len(each) for each in chunks}) > 1:
        raise ValueError(f"inputs of {[len(t) for t in inputs]} rows cannot all be cut into {parts} parts")
    return list(zip(*chunks, strict=True))
